# The one image that all steps use, on Kubeflow and elsewhere:
#
#   docker build -t limner-python:0.1.0 --build-arg GIT_COMMIT=$(git rev-parse HEAD) \
#     --build-arg GIT_DIRTY=$(test -z "$(git status --porcelain)" && echo false || echo true) .
#   docker run --rm -v $PWD:/work -w /work --user $(id -u) limner-python:0.1.0 limner train digits-gan
#
# Build arguments: BASE_IMAGE, best by its digest; EXTRAS, which extras of pyproject.toml are in it; UV_DEFAULT_INDEX for a
# mirror of PyPI; SOURCE, the address of the repository, for its label. CUDA comes with PyTorch's wheels: the base is slim.
#
# It has no ENTRYPOINT, because Kubeflow's local Docker runner would put its command behind it. The steps' settings and
# secrets never are in it: they come as files, parameters and environment variables.
ARG BASE_IMAGE=python:3.11-slim

# What is to be installed. A stage of its own, so that the next one is built anew only where this list changes, and not
# with every other line of pyproject.toml.
FROM ${BASE_IMAGE} AS wanted
ARG EXTRAS="pipeline serve server"
COPY pyproject.toml /
RUN python -c 'import sys, tomllib; p = tomllib.load(open("/pyproject.toml", "rb"))["project"]; \
      print(*p["dependencies"], *(r for e in sys.argv[1:] for r in p["optional-dependencies"][e]), sep="\n")' \
      $EXTRAS > /wanted.txt

# That, in the versions of requirements.lock: 5 GB, most of it PyTorch.
FROM ${BASE_IMAGE} AS requirements
ARG UV_DEFAULT_INDEX
ENV UV_SYSTEM_CERTS=1 UV_HTTP_TIMEOUT=300 UV_NO_CACHE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN python -m venv /tools && \
    PIP_INDEX_URL="$UV_DEFAULT_INDEX" /tools/bin/python -m pip install --no-cache-dir --disable-pip-version-check uv==0.13.9 && \
    python -m venv /venv
COPY --from=wanted /wanted.txt /
COPY requirements.lock /
RUN /tools/bin/uv pip install --python /venv/bin/python --requirements /wanted.txt --constraints /requirements.lock

# Limner itself, beside that: a change of the source is a small layer.
FROM requirements AS limner
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /tools/bin/uv pip install --python /venv/bin/python --prefix /limner --no-deps .

FROM ${BASE_IMAGE}
RUN useradd --uid 1000 --create-home limner
COPY --from=requirements /venv /venv
COPY --from=limner /limner /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=true \
    LIMNER_CACHE=/tmp/limner-cache MPLCONFIGDIR=/tmp/matplotlib
# lineage.json names the commit from here: there is no repository to ask in a container.
ARG GIT_COMMIT=""
ARG GIT_DIRTY=""
ARG SOURCE=""
ARG VERSION=0.1.0
RUN mkdir /app && \
    printf '{"git_commit": "%s", "git_dirty": "%s"}\n' "$GIT_COMMIT" "$GIT_DIRTY" > /app/BUILD_INFO.json
LABEL org.opencontainers.image.title="Limner" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$GIT_COMMIT" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.licenses="Apache-2.0"
# For Docker and Compose. Kubernetes does not read it; there the same command serves as a probe.
HEALTHCHECK --interval=5m --timeout=1m --start-period=1m CMD ["limner", "doctor", "--quiet"]
USER 1000:1000
WORKDIR /home/limner
CMD ["limner", "--help"]
