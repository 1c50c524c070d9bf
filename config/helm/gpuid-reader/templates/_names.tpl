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

{{/* Any of these labels says that a node has GPUs. */}}
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
    - {key: feature.node.kubernetes.io/pci-10de.present, operator: In, values: ["true"]}
- matchExpressions:
    - {key: feature.node.kubernetes.io/pci-0302_10de.present, operator: In, values: ["true"]}
- matchExpressions:
    - {key: feature.node.kubernetes.io/pci-0300_10de.present, operator: In, values: ["true"]}
- matchExpressions:
    - {key: karpenter.k8s.aws/instance-gpu-manufacturer, operator: In, values: [nvidia]}
- matchExpressions:
    - {key: kubernetes.azure.com/accelerator, operator: In, values: [nvidia]}
{{- end }}
{{- end }}
