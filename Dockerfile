# docker build -t panoseg .                                    for processors alone
# docker build -t panoseg:cuda --build-arg TORCH=cu128 .       for NVIDIA GPUs; run with --gpus all
# docker run --rm -v "$PWD":/data panoseg photo holiday.jpg --weights RUN --out SEGMENTED

FROM python:3.11-slim-bookworm AS build

# cpu, or the CUDA version of a build of PyTorch: cu126, cu128 ..; its wheels bring all of CUDA but the driver.
ARG TORCH=cpu

RUN pip install --no-cache-dir uv \
 && python -m venv /opt/venv
ENV VIRTUAL_ENV=/opt/venv

# PyTorch first and by itself: its layer is by far the largest, and changes least. uv knows where its builds are kept.
RUN uv pip install --no-cache --torch-backend "${TORCH}" "torch>=2.8" "torchvision>=0.23"

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
COPY qgis ./qgis
RUN uv pip install --no-cache ".[all]"


FROM python:3.11-slim-bookworm

# Used by the wheels of rasterio and PyTorch, and not in the image.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libexpat1 libgomp1 \
 && rm -rf /var/lib/apt/lists/*

COPY --from=build /opt/venv /opt/venv

# Published weights are kept in /cache: mount a volume there to fetch them once.
RUN groupadd --gid 1000 panoseg \
 && useradd --uid 1000 --gid panoseg --create-home panoseg \
 && mkdir --parents /data /cache/torch /cache/matplotlib /cache/panoseg \
 && chown --recursive panoseg:panoseg /data /cache

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TORCH_HOME=/cache/torch \
    PANOSEG_CACHE=/cache/panoseg \
    MPLCONFIGDIR=/cache/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# By number, so that an orchestrator can tell that it is not root.
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["panoseg"]
CMD ["--help"]
