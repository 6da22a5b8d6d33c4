# One image for all our services; docker-compose.yml says which command each runs.
FROM python:3.11-slim-trixie

# On PyPI, Linux builds of torch bring several GB of CUDA. The CPU build of the locked version comes from torch's own
# index first (2.13.0+cpu satisfies torch==2.13.0); that index is asked for nothing else.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu

WORKDIR /app
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements.lock)" \
    && pip install --no-cache-dir -r requirements.lock

# Named volumes take over owner and mode of the folders that they are mounted on.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kronos \
    && install --directory --owner kronos --group kronos /var/lib/kronos/var /var/lib/kronos/artifacts

COPY registry registry
COPY mlprojects mlprojects
COPY serving serving
COPY jobs jobs

# The root file system is read-only: what libraries cache goes to /tmp.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GIT_PYTHON_REFRESH=quiet \
    KRONOS_VAR_DIR=/var/lib/kronos/var
USER 10001:10001
CMD ["python", "-m", "registry", "--help"]
