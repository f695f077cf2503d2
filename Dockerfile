FROM python:3.13-slim

# What is needed to build the package, and nothing else of the project (see .dockerignore).
COPY . /src
RUN pip install --no-cache-dir /src \
    && useradd --uid 1000 --create-home proxylog \
    && install --directory --owner=proxylog --group=proxylog --mode=700 /trace

USER 1000:1000
WORKDIR /trace
VOLUME /trace

# `docker stop` kills after 10 seconds: running answers get 5 of them, storing has the rest.
ENV PROXY_LOG_LISTEN=0.0.0.0:8234 \
    PROXY_LOG_UPSTREAM=http://host.docker.internal:1234 \
    PROXY_LOG_TRACE=/trace/trace.db \
    PROXY_LOG_DRAIN_S=5

EXPOSE 8234

# A connection without a request: nothing is forwarded, and nothing recorded.
HEALTHCHECK --interval=30s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 8234), 2).close()"]

ENTRYPOINT ["proxy-log"]
CMD ["serve"]
