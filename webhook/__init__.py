"""driftwall: a Kubernetes admission webhook that blocks configuration drift at write time."""
