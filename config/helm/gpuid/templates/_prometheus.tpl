{{- define "gpuid.prometheusMetadata" -}}
metadata:
  name: {{ include "gpuid.fullname" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "gpuid.labels" . | nindent 4 }}
    {{- with .Values.prometheus.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* How Prometheus connects and authenticates. */}}
{{- define "gpuid.prometheusAccess" -}}
{{- $server := .Values.config.server | default dict }}
{{- $access := dict }}
{{- if .Values.prometheus.basicAuth }}
{{- $_ := set $access "basicAuth" .Values.prometheus.basicAuth }}
{{- else if .Values.prometheus.authorization }}
{{- $_ := set $access "authorization" .Values.prometheus.authorization }}
{{- else if kindIs "map" $server.bearer_token_file }}
{{- $_ := set $access "authorization" (dict "credentials" (dict "name" $server.bearer_token_file.secretName "key" $server.bearer_token_file.key)) }}
{{- end }}
{{- if .Values.prometheus.tlsConfig }}
{{- $_ := set $access "tlsConfig" .Values.prometheus.tlsConfig }}
{{- else if kindIs "map" $server.cert_file }}
{{- $ca := dict "secret" (dict "name" $server.cert_file.secretName "key" "ca.crt") }}
{{- $_ := set $access "tlsConfig" (dict "ca" $ca "serverName" (printf "%s.%s.svc" (include "gpuid.fullname" .) .Release.Namespace)) }}
{{- end }}
{{- with $access }}
{{- toYaml . }}
{{- end }}
{{- end }}
