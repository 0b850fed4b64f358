# The worker on NVIDIA GPUs: torch with its CUDA libraries from the package index, so that the host needs only a driver
# and the NVIDIA container toolkit. Weights are mounted at /models, never part of the image.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 HF_HOME=/models \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE docker/worker.requirements.txt ./
COPY dicom_node dicom_node
COPY worker worker
RUN pip install --require-hashes -r worker.requirements.txt \
    && pip install -c constraints.txt '.[worker]' \
    && useradd --uid 10001 --create-home chexfract \
    && install -d /models
USER 10001
WORKDIR /home/chexfract
VOLUME /models
# The worker touches this file while it is ready and not stuck; the first start loads a model.
ENV CHEXFRACT_WORKER_WORKER__ALIVE_FILE=/tmp/alive
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m \
    CMD ["python", "-c", "import os, sys, time; sys.exit(time.time() - os.stat('/tmp/alive').st_mtime > 60)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["chexfract-worker"]
CMD ["run", "--config", "/etc/chexfract/worker.toml"]
