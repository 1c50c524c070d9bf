{{- define "gpuid-reader.labels" -}}
app.kubernetes.io/name: gpuid-reader
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "gpuid-reader.scripts" -}}
{{ (.Files.Glob "files/*.{sh,awk}").AsConfig }}
{{- end }}

{{/* With a part of its content, so that a change of a script replaces the pods. */}}
{{- define "gpuid-reader.configMapName" -}}
gpuid-reader-{{ include "gpuid-reader.scripts" . | sha256sum | trunc 10 }}
{{- end }}

{{/* Any of these labels says that a node has GPUs; collector/collect/gpu_signs.py says whose they are. */}}
{{- define "gpuid-reader.nodeSelectorTerms" -}}
{{- if eq .Values.variant "gpu-operator" -}}
- matchExpressions:
    - {key: nvidia.com/gpu.deploy.device-plugin, operator: In, values: ["true"]}
{{- else if eq .Values.variant "gke" -}}
- matchExpressions:
    - {key: cloud.google.com/gke-accelerator, operator: Exists}
{{- else -}}
- matchExpressions:
    - {key: nvidia.com/gpu.present, operator: In, values: ["true"]}
- matchExpressions:
    - {key: nvidia.com/gpu.count, operator: Gt, values: ["0"]}
- matchExpressions:
    - {key: feature.node.kubernetes.io/pci-10de.present, operator: In, values: ["true"]}
- matchExpressions:
    - {key: feature.node.kubernetes.io/pci-0302_10de.present, operator: In, values: ["true"]}
- matchExpressions:
    - {key: feature.node.kubernetes.io/pci-0300_10de.present, operator: In, values: ["true"]}
- matchExpressions:
    - {key: karpenter.k8s.aws/instance-gpu-manufacturer, operator: In, values: [nvidia]}
- matchExpressions:
    - {key: eks.amazonaws.com/instance-gpu-manufacturer, operator: In, values: [nvidia]}
- matchExpressions:
    - {key: karpenter.azure.com/sku-gpu-manufacturer, operator: In, values: [nvidia]}
- matchExpressions:
    - {key: kubernetes.azure.com/accelerator, operator: In, values: [nvidia]}
- matchExpressions:
    - {key: accelerator, operator: In, values: [nvidia, nvidia-l4, nvidia-tesla-a100, nvidia-tesla-k80, nvidia-tesla-p100, nvidia-tesla-t4, nvidia-tesla-v100]}
- matchExpressions:
    - {key: k8s.amazonaws.com/accelerator, operator: In, values: [nvidia, nvidia-l4, nvidia-tesla-a100, nvidia-tesla-k80, nvidia-tesla-p100, nvidia-tesla-t4, nvidia-tesla-v100]}
{{- end }}
{{- end }}
