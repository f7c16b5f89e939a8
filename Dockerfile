# One image for operator, CSI driver and mounter. Locked Python packages; everything else is Debian's.
#
#   docker build -t docker.io/kadalu/kadalu-ext:dev .

FROM debian:bookworm-slim AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv
COPY requirements/ /src/requirements/
RUN python3 -m venv /opt/kadalu-ext \
 && /opt/kadalu-ext/bin/pip install --no-cache-dir --require-hashes -r /src/requirements/image.lock
# The build's own tools are in the development lock. protoc's plugins are looked for beside the interpreter, hence no
# build isolation.
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes -r /src/requirements/dev.lock
COPY pyproject.toml hatch_build.py README.md LICENSE /src/
COPY kadalu_ext/ /src/kadalu_ext/
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /src \
 && /opt/kadalu-ext/bin/pip install --no-cache-dir --no-deps --no-index /wheels/*.whl \
 && /opt/kadalu-ext/bin/pip uninstall --yes pip setuptools

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="kadalu-ext" \
      org.opencontainers.image.description="An external GlusterFS cluster as Kubernetes storage: operator, CSI driver and mounter" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
 && apt-get install --yes --no-install-recommends glusterfs-client libgfapi0 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=build /opt/kadalu-ext /opt/kadalu-ext
# glibc gives each of a few threads a heap of its own, and these programs have many that do little.
ENV PATH=/opt/kadalu-ext/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2
# A number, so that Kubernetes can see that it is not root; pods that mount say otherwise in their manifests.
USER 65532:65532
