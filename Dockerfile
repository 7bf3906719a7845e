# The one image that all steps use, on Kubeflow and elsewhere:
#
#   docker build -t limner-python:0.1.0 --build-arg GIT_COMMIT=$(git rev-parse HEAD) \
#     --build-arg GIT_DIRTY=$(test -z "$(git status --porcelain)" && echo false || echo true) .
#   docker run --rm -v $PWD:/work -w /work --user $(id -u) limner-python:0.1.0 limner train digits-gan
#
# It has no ENTRYPOINT, because Kubeflow's local Docker runner would put its command behind it, and no HEALTHCHECK, because
# a step ends by itself. The steps' settings never are in it: they come as files or as a parameter.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /build
# What requirements.lock pins, less the tools of a contributor. `--build-arg UV_DEFAULT_INDEX=...` for a mirror of PyPI.
ARG UV_DEFAULT_INDEX
ENV UV_SYSTEM_CERTS=1 UV_HTTP_TIMEOUT=300
COPY pyproject.toml requirements.lock ./
RUN python -m venv /venv && \
    /venv/bin/python -m pip install --no-cache-dir uv==0.13.9 && \
    /venv/bin/uv pip install --no-cache --python /venv/bin/python --compile-bytecode \
      --requirements pyproject.toml --extra pipeline --constraints requirements.lock
COPY README.md LICENSE ./
COPY src src
RUN /venv/bin/uv pip install --no-cache --python /venv/bin/python --compile-bytecode --no-deps . && \
    /venv/bin/uv pip uninstall --python /venv/bin/python uv

FROM ${BASE_IMAGE}
# lineage.json names the commit from here: there is no repository to ask in a container.
ARG GIT_COMMIT=""
ARG GIT_DIRTY=""
RUN useradd --uid 1000 --create-home limner && mkdir /app && \
    printf '{"git_commit": "%s", "git_dirty": "%s"}\n' "$GIT_COMMIT" "$GIT_DIRTY" > /app/BUILD_INFO.json
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true LIMNER_CACHE=/tmp/limner-cache
USER 1000:1000
WORKDIR /home/limner
CMD ["limner", "--help"]
