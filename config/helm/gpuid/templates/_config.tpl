{{/* gpuid.toml, from .Values.config and .Values.gpuidToml. */}}

{{- define "gpuid.givenToml" -}}
{{- $given := .Values.gpuidToml | fromToml }}
{{- with $given.Error }}{{ fail (printf "gpuidToml: %s" .) }}{{ end }}
{{- toJson $given }}
{{- end }}

{{/* [[clusters]], as JSON. Kubeconfigs of whoever wrote the TOML file are not in the pod. */}}
{{- define "gpuid.clusters" -}}
{{- $clusters := list }}
{{- range (include "gpuid.givenToml" . | fromJson).clusters }}{{ $clusters = append $clusters (omit . "kubeconfig") }}{{ end }}
{{- concat $clusters (.Values.config.clusters | default list) | toJson }}
{{- end }}

{{/* [defaults], as JSON. */}}
{{- define "gpuid.defaults" -}}
{{- $given := (include "gpuid.givenToml" . | fromJson).defaults | default dict }}
{{- merge (deepCopy (.Values.config.defaults | default dict)) (omit $given "kubeconfig") | toJson }}
{{- end }}

{{/* A value in one line. A key of a Secret is the path where it is mounted, relative to gpuid.toml. */}}
{{- define "gpuid.tomlValue" -}}
{{- if and (kindIs "map" .) (hasKey . "secretName") -}}
{{ printf "secrets/%s/%s" .secretName .key | toRawJson }}
{{- else if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ toRawJson $key }} = {{ include "gpuid.tomlValue" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $one := . }}{{ if $index }}, {{ end }}{{ include "gpuid.tomlValue" $one }}{{ end }}]
{{- else -}}
{{ toRawJson . }}
{{- end -}}
{{- end }}

{{/* The keys of a table, a line each. */}}
{{- define "gpuid.tomlKeys" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "gpuid.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end }}

{{/* What takes effect only at the next start. */}}
{{- define "gpuid.restartToml" -}}
{{- range $name := list "server" "metrics" "store" }}
{{- with get $.Values.config $name }}
[{{ $name }}]
{{- include "gpuid.tomlKeys" . }}
{{ end }}
{{- end }}
{{- end }}

{{- define "gpuid.toml" -}}
{{- $defaults := include "gpuid.defaults" . | fromJson }}
{{- if and (include "gpuid.hasContexts" .) (not (hasKey $defaults "kubeconfig")) }}
{{- $paths := list }}
{{- range .Values.kubeconfig.secretNames }}
{{- $paths = append $paths (printf "/etc/gpuid-kubeconfig/%s/%s" . $.Values.kubeconfig.key) }}
{{- end }}
{{- $_ := set $defaults "kubeconfig" (join ":" $paths) }}
{{- end }}
{{- with $defaults }}
[defaults]
{{- include "gpuid.tomlKeys" . }}
{{ end }}
{{- include "gpuid.restartToml" . }}
{{- range include "gpuid.clusters" . | fromJsonArray }}
[[clusters]]
{{- include "gpuid.tomlKeys" . }}
{{ end }}
{{- range $name, $sink := .Values.config.sinks }}
{{- with $sink }}
[sinks.{{ $name }}]
{{- include "gpuid.tomlKeys" . }}
{{ end }}
{{- end }}
{{- end }}

{{/* Not empty if any cluster is read with a kubeconfig. */}}
{{- define "gpuid.hasContexts" -}}
{{- range include "gpuid.clusters" . | fromJsonArray }}{{ if not .in_cluster }}true{{ end }}{{ end }}
{{- end }}

{{/* Not empty if any cluster is the chart's own. */}}
{{- define "gpuid.hasInCluster" -}}
{{- range include "gpuid.clusters" . | fromJsonArray }}{{ if .in_cluster }}true{{ end }}{{ end }}
{{- end }}

{{/* memory, sqlite or postgresql. */}}
{{- define "gpuid.store" -}}
{{- $store := .Values.config.store -}}
{{- if not $store }}memory{{ else if hasPrefix "postgres" (default "" $store.url) }}postgresql{{ else }}sqlite{{ end -}}
{{- end }}

{{/* The keys of Secrets that gpuid.toml names, as JSON: secret -> keys. */}}
{{- define "gpuid.secretFiles" -}}
{{- $tables := list (.Values.config.server | default dict) (.Values.config.store | default dict) }}
{{- range .Values.config.sinks }}{{ $tables = append $tables (. | default dict) }}{{ end }}
{{- $found := dict }}
{{- range $table := $tables }}
{{- range $table }}
{{- if and (kindIs "map" .) (hasKey . "secretName") }}
{{- $_ := set $found .secretName (append (get $found .secretName | default list) .key | uniq | sortAlpha) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* Ends with what is wrong, where values do not fit together. */}}
{{- define "gpuid.check" -}}
{{- if not (include "gpuid.clusters" . | fromJsonArray) }}
{{- fail "config.clusters: expected at least one, such as [{context: prod-us-east}] or [{in_cluster: true, name: here}], or --set-file gpuidToml=gpuid.toml" }}
{{- end }}
{{- $store := include "gpuid.store" . }}
{{- if and (or (gt (int .Values.replicas) 1) (gt (int .Values.shards) 1)) (ne $store "postgresql") }}
{{- fail "replicas and shards above 1 need a shared store: set config.store.url to postgresql://user@host:5432/database" }}
{{- end }}
{{- if and (eq $store "sqlite") (not .Values.extraVolumeMounts) (not (contains "/var/lib/gpuid/" .Values.config.store.url)) }}
{{- fail "config.store.url: expected postgresql://user@host:5432/database or a file below /var/lib/gpuid, where the volume is" }}
{{- end }}
{{- if and .Values.config.sinks (eq $store "memory") }}
{{- fail "config.sinks: need a config.store, which keeps records until they are delivered" }}
{{- end }}
{{- $urls := dict "config.store.url" (dig "url" "" (.Values.config.store | default dict)) }}
{{- range $name, $sink := .Values.config.sinks }}
{{- $_ := set $urls (printf "config.sinks.%s.url" $name) (dig "url" "" ($sink | default dict)) }}
{{- end }}
{{- range $key, $url := $urls }}
{{- if regexMatch "^[a-z]+://[^/?#]*:[^/?#]*@" $url }}
{{- fail (printf "%s: contains a password, which would be in the ConfigMap; put it into a Secret and name that in password_file" $key) }}
{{- end }}
{{- end }}
{{- if and (include "gpuid.hasContexts" .) (not .Values.kubeconfig.secretNames) (not (dig "kubeconfig" "" (.Values.config.defaults | default dict))) }}
{{- fail "kubeconfig.secretNames: expected at least one, because a cluster has a context" }}
{{- end }}
{{- $external := dig "external_url" "" (.Values.config.server | default dict) }}
{{- range $name := list "ingress" "gateway" }}
{{- $at := get $.Values $name }}
{{- if and $at.enabled (ne $at.path "/") (not $external) }}
{{- fail (printf "%s.path: needs config.server.external_url, such as https://gpu.example.com%s" $name $at.path) }}
{{- end }}
{{- end }}
{{- if and .Values.gateway.enabled (not .Values.gateway.parentRefs) }}
{{- fail "gateway.parentRefs: expected at least one Gateway" }}
{{- end }}
{{- $label := dig "cluster_label" "cluster" (.Values.config.metrics | default dict) }}
{{- if and (ne $label "cluster") (or .Values.prometheus.rules .Values.dashboards.enabled) }}
{{- fail "config.metrics.cluster_label: prometheus.rules and dashboards use the label cluster; load what `gpuid print` prints instead" }}
{{- end }}
{{- end }}
