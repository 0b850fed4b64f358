# The node: DICOM, ledger, job API. No torch in it.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE docker/node.requirements.txt ./
COPY dicom_node dicom_node
COPY worker worker
RUN pip install --require-hashes -r node.requirements.txt \
    && pip install --no-deps . \
    && useradd --uid 10001 --create-home chexfract \
    && install -d -o chexfract /var/lib/chexfract /trust
USER 10001
WORKDIR /var/lib/chexfract
VOLUME /var/lib/chexfract
EXPOSE 11112 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["chexfract-node"]
CMD ["serve", "--config", "/etc/chexfract/node.toml"]
