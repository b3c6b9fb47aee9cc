{{- define "raftmq-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "raftmq-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "raftmq-operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "raftmq-operator.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "raftmq-operator.selector" -}}
app.kubernetes.io/name: {{ include "raftmq-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "raftmq-operator.labels" -}}
{{ include "raftmq-operator.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "raftmq-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "raftmq-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name: needed where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "raftmq-operator.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* Two operators that look after one namespace undo each other's work. Who makes roles may look at them, so those are asked; without a cluster
   at hand (helm template) there are none. */}}
{{- define "raftmq-operator.alone" -}}
{{- $found := list -}}
{{- if .Values.namespaces -}}
{{- range .Values.namespaces -}}
{{- $found = concat $found (default list (lookup "rbac.authorization.k8s.io/v1" "RoleBinding" . "").items) -}}
{{- end -}}
{{- else -}}
{{- $found = concat (default list (lookup "rbac.authorization.k8s.io/v1" "ClusterRoleBinding" "" "").items) (default list (lookup "rbac.authorization.k8s.io/v1" "RoleBinding" "" "").items) -}}
{{- end -}}
{{- range $found -}}
{{- $labels := default dict .metadata.labels -}}
{{- $notes := default dict .metadata.annotations -}}
{{- $name := get $notes "meta.helm.sh/release-name" -}}
{{- $namespace := get $notes "meta.helm.sh/release-namespace" -}}
{{- if and $name (hasPrefix "raftmq-operator-" (get $labels "helm.sh/chart")) (eq (get $labels "app.kubernetes.io/component") "operator") -}}
{{- if not (and (eq $name $.Release.Name) (eq $namespace $.Release.Namespace)) -}}
{{- fail (printf "the release %s in %s looks after %s already, and two operators for one namespace undo each other's work: uninstall it, or give each release a list of its own with --set namespaces={...}" $name $namespace (default "all namespaces" .metadata.namespace)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do where its clusters are. */}}
{{- define "raftmq-operator.rules" -}}
- apiGroups: [raftmq.io]
  resources: [mqttclusters]
  verbs: [get, list, watch, patch]
- apiGroups: [raftmq.io]
  resources: [mqttclusters/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# Certificates and keys: made and renewed, never deleted.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
# What it gives to brokers that discover each other by the Kubernetes API: nobody can give what he has not.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
