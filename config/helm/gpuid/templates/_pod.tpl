{{/* The pod of a Deployment or StatefulSet; `.set` is the StatefulSet's letter. */}}
{{- define "gpuid.pod" -}}
{{- $root := .root }}
{{- $server := $root.Values.config.server | default dict }}
{{- $secrets := include "gpuid.secretFiles" $root | fromJson }}
{{- $many := or (gt (int $root.Values.replicas) 1) (gt (int $root.Values.shards) 1) }}
metadata:
  labels:
    {{- include "gpuid.selector" $root | nindent 4 }}
    {{- with .set }}
    gpuid/set: {{ . }}
    {{- end }}
    {{- with $root.Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/restart: {{ include "gpuid.restartToml" $root | sha256sum }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "gpuid.serviceAccount" $root | quote }}
  automountServiceAccountToken: {{ ternary true false (ne (include "gpuid.hasInCluster" $root) "") }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $root.Values.terminationGracePeriodSeconds }}
  {{- with $root.Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $root.Values.affinity }}
  affinity:
    {{- toYaml $root.Values.affinity | nindent 4 }}
  {{- else if $many }}
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "gpuid.selector" $root | nindent 16 }}
  {{- end }}
  {{- with $root.Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    {{- with $root.Values.runAsUser }}
    runAsUser: {{ int . }}
    runAsGroup: {{ int . }}
    fsGroup: {{ int . }} # makes the files of Secrets readable with mode 0440
    fsGroupChangePolicy: OnRootMismatch
    {{- end }}
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: gpuid
      image: {{ include "gpuid.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [run]
      {{- if or (gt (int $root.Values.shards) 1) $root.Values.env }}
      env:
        {{- if gt (int $root.Values.shards) 1 }}
        - name: GPUID_SHARD
          value: auto # the number at the end of the pod's name
        - name: GPUID_TOTAL_SHARDS
          value: {{ int $root.Values.shards | quote }}
        {{- end }}
        {{- with $root.Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- with $root.Values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8080
      {{- range $name, $path := dict "startupProbe" "/healthz" "livenessProbe" "/healthz" "readinessProbe" "/readyz" }}
      {{ $name }}:
        httpGet:
          path: {{ $path | quote }}
          port: http
          {{- if $server.cert_file }}
          scheme: HTTPS
          {{- end }}
        periodSeconds: {{ if eq $name "livenessProbe" }}10{{ else }}5{{ end }}
        timeoutSeconds: 5
        {{- if eq $name "startupProbe" }}
        failureThreshold: 360
        {{- end }}
      {{- end }}
      {{- with $root.Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        # Whole volumes, not subPath, so that changes to ConfigMaps and Secrets reach the running pod.
        - name: config
          mountPath: /etc/gpuid
          readOnly: true
        {{- if include "gpuid.hasContexts" $root }}
        {{- range $index, $name := $root.Values.kubeconfig.secretNames }}
        - name: kubeconfig-{{ $index }}
          mountPath: {{ printf "/etc/gpuid-kubeconfig/%s" $name | quote }}
          readOnly: true
        {{- end }}
        {{- end }}
        {{- if eq (include "gpuid.store" $root) "sqlite" }}
        - name: data
          mountPath: /var/lib/gpuid
        {{- end }}
        - name: tmp
          mountPath: /tmp
        {{- with $root.Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      projected:
        defaultMode: 0440
        sources:
          - configMap:
              name: {{ include "gpuid.fullname" $root | quote }}
          {{- range $name, $keys := $secrets }}
          - secret:
              name: {{ $name | quote }}
              items:
                {{- range $keys }}
                - key: {{ . | quote }}
                  path: {{ printf "secrets/%s/%s" $name . | quote }}
                {{- end }}
          {{- end }}
    {{- if include "gpuid.hasContexts" $root }}
    {{- range $index, $name := $root.Values.kubeconfig.secretNames }}
    - name: kubeconfig-{{ $index }}
      secret:
        secretName: {{ $name | quote }}
        defaultMode: 0440
    {{- end }}
    {{- end }}
    {{- if eq (include "gpuid.store" $root) "sqlite" }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ $root.Values.persistence.existingClaim | default (include "gpuid.fullname" $root) | quote }}
    {{- end }}
    - name: tmp
      emptyDir: {}
    {{- with $root.Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
