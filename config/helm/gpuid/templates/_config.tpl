{{/* gpuid.toml, from .Values.config and .Values.gpuidToml. */}}

{{- define "gpuid.givenToml" -}}
{{- $given := .Values.gpuidToml | fromToml }}
{{- with $given.Error }}{{ fail (printf "gpuidToml: %s" .) }}{{ end }}
{{- include "gpuid.checkGiven" (dict "given" $given "known" (.Files.Get "files/keys.json" | fromJson)) }}
{{- toJson $given }}
{{- end }}

{{/* What is not taken from .Values.gpuidToml, but for what `gpuid init` writes for a collector on one's own machine. */}}
{{- define "gpuid.unusedKeys" -}}
{{- $unused := list }}
{{- range $name, $table := omit (include "gpuid.givenToml" . | fromJson) "clusters" "defaults" }}
{{- range $key, $value := $table }}
{{- $usual := or (and (eq $name "server") (eq $key "listen")) (and (eq $name "store") (eq $key "url") (hasPrefix "sqlite" (toString $value))) }}
{{- if not $usual }}{{ $unused = append $unused (printf "%s.%s" $name $key) }}{{ end }}
{{- end }}
{{- end }}
{{- join ", " $unused }}
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
[sinks.{{ toRawJson $name }}]
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
