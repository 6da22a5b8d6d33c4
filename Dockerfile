# One image for MLflow and the gateways: inference only, no training and no test packages.
FROM python:3.11-slim-trixie

# LightGBM's wheel brings no OpenMP runtime.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

WORKDIR /app
# The image's user is not the owner of these files, and a checkout may be closed to others: so the modes are set here.
COPY --chmod=755 requirements-inference.lock ./
# On Linux the package index brings torch with several GB of CUDA packages.
RUN pip install --no-cache-dir -r requirements-inference.lock

# Named volumes take over owner and mode of the folders that they are mounted on.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kronos \
    && install --directory --owner kronos --group kronos /var/lib/kronos/var /var/lib/kronos/artifacts

COPY --chmod=755 requirements.lock ./
COPY --chmod=755 registry registry
COPY --chmod=755 mlprojects mlprojects
COPY --chmod=755 serving serving

# The root file system is read-only: what libraries cache goes to /tmp.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GIT_PYTHON_REFRESH=quiet \
    KRONOS_VAR_DIR=/var/lib/kronos/var
USER 10001:10001
CMD ["python", "-m", "registry", "--help"]
