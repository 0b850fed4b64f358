# The worker: model and pictures. PIP_EXTRA_INDEX_URL may name an index of CPU builds of torch (a
# tenth of the size); without it the image holds the CUDA build and runs on both.
FROM python:3.11-slim-bookworm

ARG PIP_EXTRA_INDEX_URL=
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE docker/worker.requirements.txt ./
COPY dicom_node dicom_node
COPY worker worker
RUN pip install --require-hashes -r worker.requirements.txt \
    && pip install -c constraints.txt '.[worker]' \
    && useradd --uid 10001 --create-home chexfract
USER 10001
WORKDIR /home/chexfract
# The worker touches this file while it is ready and not stuck; the first start loads a model.
ENV CHEXFRACT_WORKER_WORKER__ALIVE_FILE=/tmp/alive
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m \
    CMD ["python", "-c", "import os, sys, time; sys.exit(time.time() - os.stat('/tmp/alive').st_mtime > 60)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["chexfract-worker"]
CMD ["run", "--config", "/etc/chexfract/worker.toml"]
