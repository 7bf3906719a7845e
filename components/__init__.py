"""Kubeflow components: one file a step, each a thin shell of a few lines round the same function that `dvc.yaml` runs.

Kubeflow ships the source of a component's function inside the compiled pipeline and runs it in our image, which has the
package `limner`. Hence everything a body uses is imported in the body, and these files do without
`from __future__ import annotations`: kfp reads the annotations as they are.
"""
