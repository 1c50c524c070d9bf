{{/* Each of these ends with what is wrong, if anything is. */}}

{{/* A gpuid.toml that was given: the values of its keys are for gpuid to check. */}}
{{- define "gpuid.checkGiven" -}}
{{- $given := .given }}
{{- range $name, $table := $given }}
{{- if not (hasKey $.known $name) }}{{ fail (printf "gpuidToml: %s: is unknown" $name) }}{{ end }}
{{- if and (ne $name "clusters") (not (kindIs "map" $table)) }}{{ fail (printf "gpuidToml: %s: expected a table" $name) }}{{ end }}
{{- end }}
{{- if not (kindIs "slice" ($given.clusters | default list)) }}{{ fail "gpuidToml: clusters: expected [[clusters]]" }}{{ end }}
{{- range $index, $cluster := $given.clusters }}
{{- if not (kindIs "map" $cluster) }}{{ fail "gpuidToml: clusters: expected [[clusters]]" }}{{ end }}
{{- include "gpuid.checkKeys" (dict "table" $cluster "known" $.known.clusters "at" (printf "gpuidToml: clusters[%d]" $index)) }}
{{- range $key := list "name" "context" }}
{{- if not (kindIs "string" (get $cluster $key)) }}{{ fail (printf "gpuidToml: clusters[%d].%s: expected a text" $index $key) }}{{ end }}
{{- end }}
{{- end }}
{{- include "gpuid.checkKeys" (dict "table" ($given.defaults | default dict) "known" .known.defaults "at" "gpuidToml: defaults") }}
{{- end }}

{{- define "gpuid.checkKeys" -}}
{{- range $key, $_ := .table }}
{{- if not (has $key $.known) }}{{ fail (printf "%s.%s: is unknown" $.at $key) }}{{ end }}
{{- end }}
{{- end }}

{{/* What becomes part of the ConfigMap must not have a password in it. */}}
{{- define "gpuid.checkPasswords" -}}
{{- if kindIs "map" .value }}
{{- range $key, $value := .value }}{{ include "gpuid.checkPasswords" (dict "at" (printf "%s.%s" $.at $key) "value" $value) }}{{ end }}
{{- else if kindIs "slice" .value }}
{{- range $index, $value := .value }}{{ include "gpuid.checkPasswords" (dict "at" (printf "%s[%d]" $.at $index) "value" $value) }}{{ end }}
{{- else if kindIs "string" .value }}
{{- if or (regexMatch "(?i)^[a-z][a-z0-9+.-]*://[^/?#]*:[^/?#]*@" .value) (regexMatch "(?i)[?&](ssl)?password=" .value) }}
{{- fail (printf "%s: contains a password, which would be in the ConfigMap; put it into a Secret, which password_file or a variable of env can name" .at) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Clusters, whose presets must be known and whose names must differ. */}}
{{- define "gpuid.checkClusters" -}}
{{- $presets := (.Files.Get "files/presets.json" | fromJson).presets }}
{{- $given := include "gpuid.givenToml" . | fromJson }}
{{- $tables := dict "gpuidToml: defaults" ($given.defaults | default dict) "config.defaults" (.Values.config.defaults | default dict) }}
{{- $seen := dict }}
{{- range $at, $clusters := dict "gpuidToml: clusters" ($given.clusters | default list) "config.clusters" (.Values.config.clusters | default list) }}
{{- range $index, $cluster := $clusters }}
{{- $here := printf "%s[%d]" $at $index }}
{{- $_ := set $tables $here $cluster }}
{{- if and $cluster.in_cluster $cluster.context }}{{ fail (printf "%s: in_cluster and context exclude each other" $here) }}{{ end }}
{{- if and $cluster.in_cluster (not $cluster.name) }}{{ fail (printf "%s.name: required with in_cluster" $here) }}{{ end }}
{{- if not (or $cluster.in_cluster $cluster.context) }}{{ fail (printf "%s.context: required, or in_cluster: true" $here) }}{{ end }}
{{- $name := $cluster.name | default $cluster.context }}
{{- with get $seen $name }}{{ fail (printf "%s: the name %q is also that of %s" $here $name .) }}{{ end }}
{{- $_ := set $seen $name $here }}
{{- end }}
{{- end }}
{{- range $at, $table := $tables }}
{{- with $table.preset }}
{{- range $name := ternary . (list .) (kindIs "slice" .) }}
{{- if not (hasKey $presets (toString $name)) }}
{{- fail (printf "%s.preset: expected one of %s" $at (keys $presets | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}
{{- end }}
{{- include "gpuid.checkPasswords" (dict "at" $at "value" $table) }}
{{- end }}
{{- end }}

{{/* Prometheus must have the credentials that its scrapes need. */}}
{{- define "gpuid.checkScrapes" -}}
{{- $server := .Values.config.server | default dict }}
{{- $login := or .Values.prometheus.basicAuth .Values.prometheus.authorization (kindIs "map" $server.bearer_token_file) }}
{{- if and $server.basic_auth (not $login) }}
{{- fail "prometheus.basicAuth: expected the keys of a Secret with a user and password of config.server.basic_auth" }}
{{- end }}
{{- if and $server.bearer_token_file (not $login) }}
{{- fail "prometheus.authorization: expected the Secret with the token that config.server.bearer_token_file holds" }}
{{- end }}
{{- if and $server.client_ca_file (not (or .Values.prometheus.tlsConfig.cert .Values.prometheus.tlsConfig.certFile)) }}
{{- fail "prometheus.tlsConfig: expected cert and keySecret, because config.server.client_ca_file requires a client certificate" }}
{{- end }}
{{- end }}

{{/* A release keeps its history under its first name, and helm cannot roll back past a new one. */}}
{{- define "gpuid.checkClaim" -}}
{{- $name := include "gpuid.fullname" . }}
{{- if not (lookup "v1" "PersistentVolumeClaim" .Release.Namespace $name) }}
{{- range (lookup "v1" "PersistentVolumeClaim" .Release.Namespace "").items }}
{{- $release := dig "annotations" "meta.helm.sh/release-name" "" .metadata }}
{{- if and (eq $release $.Release.Name) (eq (dig "labels" "app.kubernetes.io/name" "" .metadata) "gpuid") }}
{{- fail (printf "fullnameOverride: the history of this release is in the PersistentVolumeClaim %s, but it would use a new one, %s; set fullnameOverride to %s, or delete that claim" .metadata.name $name .metadata.name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Values that do not fit together. */}}
{{- define "gpuid.check" -}}
{{- $name := include "gpuid.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "fullnameOverride: expected a name that a Service can have: lower-case letters, digits and -, with a letter first; got %q" $name) }}
{{- end }}
{{- if not (include "gpuid.clusters" . | fromJsonArray) }}
{{- fail "config.clusters: expected at least one, such as [{context: prod-us-east}] or [{in_cluster: true, name: here}], or --set-file gpuidToml=gpuid.toml" }}
{{- end }}
{{- include "gpuid.checkClusters" . }}
{{- $store := include "gpuid.store" . }}
{{- if and (or (gt (int .Values.replicas) 1) (gt (int .Values.shards) 1)) (ne $store "postgresql") }}
{{- fail "replicas and shards above 1 need a shared store: set config.store.url to postgresql://user@host:5432/database" }}
{{- end }}
{{- range $name := list "server" "metrics" "store" "sinks" }}
{{- include "gpuid.checkPasswords" (dict "at" (printf "config.%s" $name) "value" (get $.Values.config $name)) }}
{{- end }}
{{- range $user, $hash := dig "basic_auth" dict (.Values.config.server | default dict) }}
{{- if not (regexMatch "^[$]2[aby][$][0-9]{2}[$][./A-Za-z0-9]{53}$" $hash) }}
{{- fail (printf "config.server.basic_auth.%s: expected a bcrypt hash" $user) }}
{{- end }}
{{- end }}
{{- if and (eq $store "sqlite") (not .Values.extraVolumeMounts) (not (contains "/var/lib/gpuid/" .Values.config.store.url)) }}
{{- fail "config.store.url: expected postgresql://user@host:5432/database or a file below /var/lib/gpuid, where the volume is" }}
{{- end }}
{{- if and (eq $store "sqlite") (not .Values.persistence.existingClaim) }}{{ include "gpuid.checkClaim" . }}{{ end }}
{{- if and .Values.config.sinks (eq $store "memory") }}
{{- fail "config.sinks: need a config.store, which keeps records until they are delivered" }}
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
{{- if and .Values.rbac.create .Values.rbac.admissionPolicy (include "gpuid.hasInCluster" .) (regexMatch "^v?1[.][12]?[0-9][.]" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "rbac.admissionPolicy: needs Kubernetes 1.30, and this is %s; false leaves the policies out" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if ne .Values.prometheus.scrape "none" }}{{ include "gpuid.checkScrapes" . }}{{ end }}
{{- $label := dig "cluster_label" "cluster" (.Values.config.metrics | default dict) }}
{{- if and (ne $label "cluster") (or .Values.prometheus.rules .Values.dashboards.enabled) }}
{{- fail "config.metrics.cluster_label: prometheus.rules and dashboards use the label cluster; load what `gpuid print` prints instead" }}
{{- end }}
{{- end }}
