# An image that serves a bundle: CPU only, small, not as root. How to build and run it: docs/how-to/docker.md.
FROM python:3.11-slim-bookworm AS build
# Options for pip, such as the address of an index that has the CPU builds of torch.
ARG PIP_ARGS=""
ARG EXTRAS="serve,redis"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
COPY constraints.txt ./
# First and by itself: the largest layer changes with the version of torch alone. The plain wheel would bring CUDA.
RUN python -m venv /opt/corral \
    && read -ra options <<< "$PIP_ARGS" \
    && torch="$(sed -n 's/^torch==//p' constraints.txt)" \
    && /opt/corral/bin/pip install "${options[@]}" -c constraints.txt "torch==${torch}+cpu"
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
RUN read -ra options <<< "$PIP_ARGS" \
    && /opt/corral/bin/pip install "${options[@]}" -c constraints.txt ".[${EXTRAS}]"

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 corral \
    && useradd --uid 10001 --gid corral --no-create-home --home-dir /data corral \
    && install -d -o corral -g corral /data /data/events
COPY --from=build /opt/corral /opt/corral
# One thread a server: for more cores start more servers.
ENV PATH="/opt/corral/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1
USER 10001:10001
WORKDIR /data
VOLUME /data/events
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
ENTRYPOINT ["corral"]
# A container's own loopback cannot be reached from outside it. Beyond 127.0.0.1 the service starts with tokens only.
CMD ["serve", "/data/bundle", "--host", "0.0.0.0", "--port", "8000", "--events", "/data/events/events.sqlite"]
