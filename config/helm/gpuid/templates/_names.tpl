{{- define "gpuid.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough for what is appended to it. */}}
{{- define "gpuid.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "gpuid.name" .) .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "gpuid.name" .) | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* Of objects of the whole cluster, and in other namespaces. A namespace has no dot, so
     no two releases share one. Never `gpuid`, which is what `gpuid grant` makes. */}}
{{- define "gpuid.clusterName" -}}
{{ .Release.Namespace }}.{{ include "gpuid.fullname" . }}
{{- end }}

{{- define "gpuid.selector" -}}
app.kubernetes.io/name: gpuid
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "gpuid.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "gpuid.labels" -}}
{{ include "gpuid.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Not `gpuid` either: `gpuid grant` makes that account in the namespace gpuid, for the kubeconfig of a collector. */}}
{{- define "gpuid.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (printf "%s-collector" (include "gpuid.fullname" .)) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end }}

{{/* The bytes of a quantity such as 10Gi. */}}
{{- define "gpuid.bytes" -}}
{{- $bytes := regexFind "^[0-9.]+" . | float64 }}
{{- $unit := regexFind "[A-Za-z]*$" . }}
{{- range until (index (dict "" 0 "k" 1 "K" 1 "M" 2 "G" 3 "T" 4 "P" 5 "E" 6) (trimSuffix "i" $unit)) }}
{{- $bytes = mulf $bytes (ternary 1024 1000 (hasSuffix "i" $unit)) }}
{{- end }}
{{- printf "%.0f" $bytes }}
{{- end }}
