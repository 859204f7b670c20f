# One image for every role: the command decides. The stores are containers of their own.
# `make image` builds it; deploy/image/build makes a base of Debian's packages where no registry can be reached.
ARG BASE=docker.io/library/python:3.13-slim-trixie
# The stage that installs packages needs pip; the image does not.
ARG BUILD_BASE=${BASE}

FROM ${BUILD_BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements.txt .
# Wheels only: no code of a package runs here, and no compiler is needed. A secret is a file of the build's machine, such as
# its package source; it leaves no trace in any layer.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --require-hashes --no-deps --only-binary=:all: -r requirements.txt

FROM ${BASE}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dead-letter queue" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version=${VERSION} \
    org.opencontainers.image.revision=${REVISION}
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data \
    PYTHONPATH=/srv/apps \
    HOST=0.0.0.0 \
    PORT=8000
# /srv/apps: packages of EXTRA_APPS, mounted or copied by an image on top of this one.
# The base may bring its own pip: nothing in this image installs anything. No program needs another user's rights.
RUN groupadd --gid 10001 dlq \
    && useradd --uid 10001 --gid dlq --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dlq \
    && install -d -o dlq -g dlq -m 0700 /data \
    && install -d /srv/apps \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
WORKDIR /srv/dlq
COPY --from=build /opt/venv /opt/venv
COPY . .
# Static files belong to the image: hashed names, compressed once. So does the byte code: nothing is written at run time.
# Python's own images have none of the standard library: each process would compile it at every start, and keep 2 MB more.
RUN SECRET_KEY=only-while-building-0123456789-0123456789-0123456789 python manage.py prepare --static-only \
    && python -m compileall -q . \
    && python -m compileall -q -x '/(tests?|idlelib|site-packages|dist-packages)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# The web role's; the other roles replace it (see docker-compose.yml).
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/api/system/ready\", timeout=4)"]
CMD ["gunicorn", "dlqsite.wsgi:application"]
