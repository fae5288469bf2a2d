#!/usr/bin/env bash
# Builds the image of the Dockerfile and runs the flow in it as the composition does: as its ordinary user, with a read-only root.
# No engine is needed and no registry of images: the base is made from Debian itself, by where apt has it from. As root, with
# buildah and debootstrap. `deploy/test-image.sh FOLDER` keeps base and layers in a folder, so that the next time is quicker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for program in buildah debootstrap; do
    command -v "$program" >/dev/null || { echo "test-image needs $program: apt-get install buildah debootstrap" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "test-image needs root, to make a root file system" >&2; exit 1; }

work=${1:-$(mktemp -d)}
mkdir -p "$work/data"
mounted=()
cleanup() {
    for place in "${mounted[@]}"; do umount --lazy "$place"; done
    [ $# -gt 0 ] || rm -rf "$work"
}
trap 'cleanup "$@"' EXIT
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
base=$(sed -n 's/^FROM //p' Dockerfile)

if ! buildah images --quiet "docker.io/library/$base" >/dev/null 2>&1; then
    echo "==> a base from Debian, called $base"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Codename: bookworm' | head -1)
    debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
        bookworm "$work/base" "$mirror" >"$work/debootstrap.log"
    rm "$work"/base/usr/lib/python3*/EXTERNALLY-MANAGED
    ln -s /usr/bin/python3 "$work/base/usr/local/bin/python"
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
    container=$(buildah from scratch)
    cp -a "$work/base/." "$(buildah mount "$container")/"
    buildah umount "$container" >/dev/null
    buildah commit --quiet "$container" "docker.io/library/$base" >/dev/null
    buildah rm "$container" >/dev/null
fi

echo "==> the image"
buildah bud --quiet --isolation chroot --pull=never --tag etl-assets .
container=$(buildah from --pull=never etl-assets)
root=$(buildah mount "$container")
of() { du -sm "$1" | cut -f1; }
echo "the image has $(of "$root") MB unpacked, of which Debian and Python are $(of "$work/base") MB"

echo "==> the flow in it"
user=$(buildah inspect --format '{{.OCIv1.Config.User}}' "$container")
identity=$(awk -F: -v user="$user" '$1 == user {print $3 ":" $4}' "$root/etc/passwd")
mount --bind "$root" "$root"
mounted=("$root")
for place in proc dev; do mount --bind "/$place" "$root/$place"; mounted=("$root/$place" "${mounted[@]}"); done
mount -t tmpfs tmpfs "$root/tmp"
mounted=("$root/tmp" "${mounted[@]}")
chown "$identity" "$work/data"
mount --bind "$work/data" "$root/app/data"
mounted=("$root/app/data" "${mounted[@]}")
mount -o remount,bind,ro "$root"
inside() {
    chroot --userspec="$identity" "$root" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/home/etl \
        DAGSTER_HOME=/opt/dagster PYTHONUNBUFFERED=1 sh -c "cd /app && $1"
}
inside 'id -u' | grep -qx "${identity%%:*}"
if inside 'touch /app/here' 2>/dev/null; then echo "the root can be written" >&2; exit 1; fi
inside 'python -m pip check' || true
inside 'etl demo'
inside 'etl verify'
inside 'etl status' >/dev/null
echo "the image runs the flow, as user $user, with a read-only root"
