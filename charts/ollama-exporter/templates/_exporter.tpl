{{/* The exporter's container, and the volumes that it needs. */}}

{{- define "ollama-exporter.container" -}}
name: exporter
image: {{ include "ollama-exporter.image" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
env:
  - name: OLLAMA_EXPORTER_CONFIG_FILE
    value: /etc/ollama-exporter/config/exporter.yml
  - name: OLLAMA_EXPORTER_WEB_LISTEN_ADDRESS
    value: :8082
  {{- if .Values.webConfig.existingSecret }}
  - name: OLLAMA_EXPORTER_WEB_CONFIG_FILE
    value: /etc/ollama-exporter/web/{{ .Values.webConfig.key }}
  {{- end }}
  {{- if eq .Values.mode "sidecar" }}
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: OLLAMA_EXPORTER_SERVERS
    value: $(POD_NAME)=http://127.0.0.1:11434
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: metrics
    containerPort: 8082
livenessProbe:
  {{- include "ollama-exporter.check" (dict "path" "/health" "root" .) | nindent 2 }}
  initialDelaySeconds: 10
  periodSeconds: 15
  timeoutSeconds: 5
{{- if ne .Values.mode "sidecar" }}
readinessProbe:
  {{- include "ollama-exporter.check" (dict "path" "/-/ready" "root" .) | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - name: config
    mountPath: /etc/ollama-exporter/config
    readOnly: true
  {{- if .Values.webConfig.existingSecret }}
  - name: web
    mountPath: /etc/ollama-exporter/web
    readOnly: true
  {{- end }}
  {{- range $number, $secret := .Values.secretFiles }}
  - name: secret-{{ $number }}
    mountPath: /etc/ollama-exporter/secrets/{{ $secret }}
    readOnly: true
  {{- end }}
{{- end -}}

{{- define "ollama-exporter.check" -}}
{{- if eq .root.Values.webConfig.tls "mutual" -}}
tcpSocket:
  port: metrics
{{- else -}}
httpGet:
  path: {{ .path }}
  port: metrics
  scheme: {{ include "ollama-exporter.scheme" .root | upper }}
{{- end -}}
{{- end -}}

{{- define "ollama-exporter.volumes" -}}
- name: config
  configMap:
    name: {{ include "ollama-exporter.fullname" . }}
{{- if .Values.webConfig.existingSecret }}
- name: web
  secret:
    secretName: {{ .Values.webConfig.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- range $number, $secret := .Values.secretFiles }}
- name: secret-{{ $number }}
  secret:
    secretName: {{ $secret }}
    defaultMode: 0440
{{- end }}
{{- end -}}
