{{- define "ollama-exporter.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The StatefulSet of mode sidecar and Ollama's Service. */}}
{{- define "ollama-exporter.ollama" -}}
{{- if contains "ollama" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-ollama" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ollama-exporter.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ollama-exporter.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "ollama-exporter.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ollama-exporter.labels" -}}
{{ include "ollama-exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Called with (dict "image" VALUES "tag" DEFAULT). */}}
{{- define "ollama-exporter.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* What the exporter reads. The machine of a central exporter has nothing to do with any Ollama. */}}
{{- define "ollama-exporter.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if eq .Values.mode "sidecar" -}}
{{- $config = omit $config "servers" -}}
{{- if not (hasKey $config "host") -}}
{{- $_ := set $config "host" (dict "models_dir" (include "ollama-exporter.models" .)) -}}
{{- end -}}
{{- else if not (hasKey $config "host") -}}
{{- $_ := set $config "host" (dict "enabled" false) -}}
{{- end -}}
{{- if .Values.policy -}}
{{- $audit := deepCopy (default (dict) (get $config "audit")) -}}
{{- $_ := set $config "audit" (set $audit "policy_file" "policy.yml") -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* Where Ollama keeps its models, in both containers of mode sidecar: a model's name is found by the path of its file. */}}
{{- define "ollama-exporter.models" -}}
/var/lib/ollama/models
{{- end -}}

{{- define "ollama-exporter.scheme" -}}
{{- ternary "http" "https" (eq .Values.webConfig.tls "off") -}}
{{- end -}}

{{/* What all pods have in common. */}}
{{- define "ollama-exporter.scheduling" -}}
serviceAccountName: {{ include "ollama-exporter.serviceAccount" . }}
automountServiceAccountToken: {{ .Values.rbac.discovery }}
# Variables like OLLAMA_PORT would be taken for settings.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $constraint := . }}
  {{- if not .labelSelector }}
  {{- $constraint = merge (dict "labelSelector" (dict "matchLabels" (include "ollama-exporter.selector" $ | fromYaml))) . }}
  {{- end }}
  - {{ toYaml $constraint | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/*
A new configuration makes a new exporter, but never a new Ollama: in mode sidecar it is reloaded (docs/kubernetes.md). For
the same reason pods do not carry the chart's version.
*/}}
{{- define "ollama-exporter.podMetadata" -}}
labels:
  {{- include "ollama-exporter.selector" . | nindent 2 }}
  {{- with .Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or (eq .Values.mode "central") .Values.podAnnotations }}
annotations:
  {{- if eq .Values.mode "central" }}
  checksum/config: {{ include (print $.Template.BasePath "/configmap.yaml") . | sha256sum }}
  {{- end }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}
