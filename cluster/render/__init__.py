"""The profile as manifests for Kubernetes (KubeRay) and as a cluster file for Ray on AWS."""
