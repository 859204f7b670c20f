# One image for every role: the command decides. The stores are containers of their own.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.txt .
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --require-hashes --no-deps -r requirements.txt

FROM ${BASE}
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATA_DIR=/data \
    HOST=0.0.0.0 \
    PORT=8000
RUN groupadd --gid 10001 dlq \
    && useradd --uid 10001 --gid dlq --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dlq \
    && install -d -o dlq -g dlq -m 0700 /data
WORKDIR /srv/dlq
COPY --from=build /opt/venv /opt/venv
COPY . .
# Static files belong to the image: hashed names, compressed once. So does the byte code: nothing is written at run time.
RUN SECRET_KEY=only-while-building-0123456789-0123456789-0123456789 python manage.py prepare --static-only \
    && python -m compileall -q .
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
# The web role's; the other roles replace it (see docker-compose.yml).
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['PORT']}/api/system/ready\", timeout=4)"]
CMD ["gunicorn", "dlqsite.wsgi:application"]
