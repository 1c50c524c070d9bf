{{/* The sources of the chart's own cluster, as gpuid derives them, as JSON: {"sources": […], "labels": bool}. */}}
{{- define "gpuid.ownSources" -}}
{{- $presets := .Files.Get "files/presets.json" | fromJson }}
{{- $defaults := include "gpuid.defaults" . | fromJson }}
{{- $sources := list }}
{{- $labels := false }}
{{- range $cluster := include "gpuid.clusters" . | fromJsonArray }}
{{- if $cluster.in_cluster }}
{{- $chosen := ternary $cluster $defaults (or (hasKey $cluster "preset") (hasKey $cluster "sources")) }}
{{- $command := $cluster.command | default $defaults.command }}
{{- $labels = or $labels (ternary $cluster.labels $defaults.labels (hasKey $cluster "labels")) }}
{{- if $chosen.sources }}
{{- range $chosen.sources }}
{{- $runs := .command | default $command | default $presets.command }}
{{- $sources = append $sources (dict "namespace" .namespace "container" .container "method" (.method | default "exec") "command" $runs) }}
{{- end }}
{{- else }}
{{- $names := $chosen.preset | default "gpu-operator" }}
{{- range $name := ternary $names (list $names) (kindIs "slice" $names) }}
{{- range (get $presets.presets $name | default list) }}
{{- $runs := $command | default .command | default $presets.command }}
{{- $sources = append $sources (dict "namespace" .namespace "container" .container "method" .method "command" $runs) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- dict "sources" $sources "labels" ($labels | default false) | toJson }}
{{- end }}

{{- define "gpuid.ownUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "gpuid.serviceAccount" . }}
{{- end }}

{{/* The expression by which a command is admitted; also for one GPU, if nvidia-smi can do that. */}}
{{- define "gpuid.admits" -}}
{{- $command := .command }}
{{- $words := list }}
{{- range $command }}{{ $words = append $words (toRawJson .) }}{{ end }}
{{- $runs := printf "object.command == [%s]" (join ", " $words) }}
{{- $at := -1 }}
{{- $single := true }}
{{- range $index, $word := $command }}
{{- if ge $at 0 }}
{{- if or (not (hasPrefix "-" $word)) (hasPrefix "-i" $word) (hasPrefix "--id" $word) }}{{ $single = false }}{{ end }}
{{- else if eq (last (splitList "/" $word)) "nvidia-smi" }}{{ $at = $index }}
{{- end }}
{{- end }}
{{- if and $single (ge $at 0) }}
{{- $argument := printf "object.command[%d]" (add1 (len $command)) }}
{{- $one := .oneGpu | toRawJson }}
{{- $runs = printf "(%s\n    || object.command.size() == %d && object.command == [%s, \"-i\", string(%s)]\n    && %s.matches(%s))" $runs (add 2 (len $command)) (join ", " $words) $argument $argument $one }}
{{- end -}}
(request.namespace == {{ toRawJson .namespace }} && object.container == {{ toRawJson .container }}
    && {{ $runs }})
{{- end }}
