# syntax=docker/dockerfile:1
# docker build --target cpu -t glass-gym .          docker run --rm -v "$PWD:/work" glass-gym glass-demo
# docker build --target cuda -t glass-gym:cuda .    docker run --rm --gpus all -v "$PWD:/work" glass-gym:cuda glass-bench

FROM python:3.12-slim AS base
ENV PIP_NO_CACHE_DIR=1 SDL_VIDEODRIVER=dummy
COPY . /src
WORKDIR /work

FROM base AS cpu
RUN pip install "torch>=2.13,<2.14" --index-url https://download.pytorch.org/whl/cpu && pip install "/src[train,web,export]"
RUN useradd --create-home player
USER player
CMD ["glass-demo", "--out", "/tmp/demo"]

# PyPI's torch for Linux brings CUDA; the host needs the driver and the NVIDIA container toolkit
FROM base AS cuda
RUN pip install "torch>=2.13,<2.14" && pip install "/src[train,web,export]"
RUN useradd --create-home player
USER player
CMD ["glass-bench"]
