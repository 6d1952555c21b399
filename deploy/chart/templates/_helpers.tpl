{{- define "driftwall.selector" -}}
app.kubernetes.io/name: driftwall
{{- end }}

{{- define "driftwall.labels" -}}
{{ include "driftwall.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "driftwall.metadata" -}}
name: driftwall
namespace: {{ .Release.Namespace }}
labels:
  {{- include "driftwall.labels" . | nindent 2 }}
{{- end }}

{{- define "driftwall.scanMetadata" -}}
name: driftwall-scan
namespace: {{ .Release.Namespace }}
labels:
  {{- include "driftwall.labels" . | nindent 2 }}
{{- end }}

{{- define "driftwall.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* The Secret with the certificate: driftwall's own, or that of whoever brings it. */ -}}
{{- define "driftwall.secret" -}}
{{- if eq .Values.certificates.mode "existingSecret" -}}
{{ required "certificates.existingSecret.name is required for certificates.mode existingSecret" .Values.certificates.existingSecret.name }}
{{- else -}}
driftwall-tls
{{- end -}}
{{- end }}

{{- /* Whether a glass can be broken, and tokens are refused: in mode enforce alone, as what is generated has it. */ -}}
{{- define "driftwall.breakGlass" -}}
{{- if and (eq .Values.policies.mode "enforce") (or .Values.config.breakGlass.groups .Values.config.breakGlass.users) }}true{{ end }}
{{- end }}
{{- define "driftwall.guard" -}}
{{- if and (eq .Values.policies.mode "enforce") .Values.config.guardIdentities }}true{{ end }}
{{- end }}

{{- /* The DriftwallConfig, from the values. */ -}}
{{- define "driftwall.config" -}}
{{- $spec := dict "guardIdentities" (eq (include "driftwall.guard" .) "true") }}
{{- with .Values.config }}
{{- if .clusterId }}{{ $_ := set $spec "clusterId" .clusterId }}{{ end }}
{{- if .trustedWriters }}{{ $_ := set $spec "trustedWriters" .trustedWriters }}{{ end }}
{{- if .automation }}{{ $_ := set $spec "automation" .automation }}{{ end }}
{{- if .systemWriters }}{{ $_ := set $spec "systemWriters" .systemWriters }}{{ end }}
{{- if ne (.exemptNamespaces | sortAlpha | join " ") "kube-system" }}{{ $_ := set $spec "exemptNamespaces" .exemptNamespaces }}{{ end }}
{{- end }}
{{- if eq (include "driftwall.breakGlass" .) "true" }}
{{- $glass := dict }}
{{- range $key, $value := .Values.config.breakGlass }}{{ if $value }}{{ $_ := set $glass $key $value }}{{ end }}{{ end }}
{{- $_ := set $spec "breakGlass" $glass }}
{{- end -}}
apiVersion: driftwall.io/v1alpha1
kind: DriftwallConfig
metadata:
  name: default
spec:
  {{- toYaml $spec | nindent 2 }}
{{- end }}

{{- /* What the ConfigMap holds: one configuration, and the policies in the mode that is asked for. */ -}}
{{- define "driftwall.documents" -}}
{{- if .Values.policies.documents -}}
{{ .Values.policies.documents }}
{{- else -}}
{{ include "driftwall.config" . }}
{{- range $path, $_ := .Files.Glob "files/policies/*.yaml" }}
---
{{- $policy := $.Files.Get $path | fromYaml }}
{{- $_ := set $policy.spec "mode" $.Values.policies.mode }}
{{ toYaml $policy }}
{{- end }}
{{- end }}
{{- end }}

{{- /* The file with the webhook configurations that these need; deploy/generate.py has the same names. */ -}}
{{- define "driftwall.variant" -}}
{{- $mode := .Values.policies.mode -}}
{{- $parts := list (has $mode (list "dryRun" "warn") | ternary "observe" $mode) -}}
{{- if eq (include "driftwall.breakGlass" .) "true" }}{{ $parts = append $parts "break-glass" }}{{ end -}}
{{- if eq (include "driftwall.guard" .) "true" }}{{ $parts = append $parts "guard" }}{{ end -}}
{{- if eq .Values.policies.source "customResources" }}{{ $parts = append $parts "custom-resources" }}{{ end -}}
{{ join "-" $parts }}
{{- end }}
