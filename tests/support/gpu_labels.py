"""Labels of nodes with GPUs, as those who set them do."""

__all__ = ["GPU_LABELS"]

GPU_LABELS = (
    ("nvidia.com/gpu.present", "true"),
    ("nvidia.com/gpu.count", "8"),
    ("feature.node.kubernetes.io/pci-10de.present", "true"),
    ("feature.node.kubernetes.io/pci-0302_10de.present", "true"),
    ("feature.node.kubernetes.io/pci-0300_10de.present", "true"),
    ("cloud.google.com/gke-accelerator", "nvidia-tesla-t4"),
    ("karpenter.k8s.aws/instance-gpu-manufacturer", "nvidia"),
    ("karpenter.k8s.aws/instance-gpu-count", "4"),
    ("karpenter.k8s.aws/instance-gpu-name", "h100"),
    ("eks.amazonaws.com/instance-gpu-manufacturer", "nvidia"),
    ("eks.amazonaws.com/instance-gpu-count", "1"),
    ("karpenter.azure.com/sku-gpu-manufacturer", "nvidia"),
    ("karpenter.azure.com/sku-gpu-name", "A100"),
    ("kubernetes.azure.com/accelerator", "nvidia"),
    ("accelerator", "nvidia"),
    ("accelerator", "nvidia-tesla-k80"),
    ("k8s.amazonaws.com/accelerator", "nvidia-tesla-v100"),
)
