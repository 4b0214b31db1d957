#!/bin/sh
# The main job on real input: a bundle from Debian's busybox, its plan, a run, and what is in force;
# then the same as an image that becomes a bundle. Called by `make demo`, which installs what is
# missing first; $OCIRT and $OCI_IMAGE are the commands.
set -eu
ocirt=${OCIRT:-.venv/bin/ocirt}
oci_image=${OCI_IMAGE:-.venv/bin/oci-image}
python=.venv/bin/python
work=/tmp/ocirt-demo-$$
mkdir -m 0700 "$work" # not if somebody has made it
id=demo-$$
clean() {
    "$ocirt" --root "$work/state" delete --force "$id" >/dev/null 2>&1 || true
    if [ -e "$work/app" ]; then "$oci_image" --root "$work/images" unbundle "$work/app"; fi
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

mkdir -p "$work/bundle/rootfs/bin" "$work/bundle/rootfs/etc"
cp /bin/busybox "$work/bundle/rootfs/bin/"
for name in sh ps id hostname mount cat sleep dd tail grep sed echo; do
    ln -s busybox "$work/bundle/rootfs/bin/$name"
done
echo 'root:x:0:0:root:/root:/bin/sh' > "$work/bundle/rootfs/etc/passwd"
cat > "$work/bundle/rootfs/bin/look" <<'LOOK'
#!/bin/sh
echo "hostname:  $(hostname)"
echo "identity:  $(id)"
echo "processes:"; ps
echo "mounts:"; mount | sed 's/^/  /'
for file in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do
    if [ -e "$file" ]; then echo "memory:    $(cat "$file") bytes ($file)"; fi
done
# tail keeps the whole line in memory: 64 MiB do not fit into 32.
if dd if=/dev/zero bs=1M count=64 2>/dev/null | tail -n 1 >/dev/null; then
    echo "64 MiB were taken: the limit does not hold"; exit 1
fi
echo "64 MiB were refused: the limit holds"
LOOK
chmod +x "$work/bundle/rootfs/bin/look"

say ocirt spec --bundle bundle
"$ocirt" spec --bundle "$work/bundle"
"$python" - "$work/bundle/config.json" <<'PYTHON'
import json, sys
path = sys.argv[1]
spec = json.load(open(path))
spec["process"].update(terminal=False, args=["/bin/look"])
spec["hostname"] = "demo"
spec["linux"]["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
json.dump(spec, open(path, "w"), indent=2)
PYTHON
echo "config.json: args /bin/look, hostname demo, memory limit 32 MiB"

say ocirt plan --summary --bundle bundle
"$ocirt" plan --summary --bundle "$work/bundle"

say ocirt run --bundle bundle demo
"$ocirt" --root "$work/state" run --bundle "$work/bundle" "$id"

say 'ocirt run --detach --bundle bundle demo   (now: sleep), then: ocirt verify demo'
sed -i 's|"/bin/look"|"/bin/sleep", "600"|' "$work/bundle/config.json"
"$ocirt" --root "$work/state" run --detach --bundle "$work/bundle" "$id" </dev/null >/dev/null
"$ocirt" --root "$work/state" verify "$id"
"$ocirt" --root "$work/state" delete --force "$id"

say 'tar -C bundle/rootfs -c . | oci-image import - demo --cmd ... --user demo'
echo 'demo:x:1000:1000:demo:/:/bin/sh' >> "$work/bundle/rootfs/etc/passwd"
tar -C "$work/bundle/rootfs" -c . | "$oci_image" --root "$work/images" import - demo --user demo \
    --env GREETING=hello --cmd '["/bin/sh", "-c", "echo $GREETING from $(hostname); id; mount | grep \" / \""]'

say oci-image images
"$oci_image" --root "$work/images" images

say oci-image bundle demo app
"$oci_image" --root "$work/images" bundle --hostname app demo "$work/app"

say ocirt run --bundle app demo
"$ocirt" --root "$work/state" run --bundle "$work/app" "$id" </dev/null

say oci-image unbundle app
"$oci_image" --root "$work/images" unbundle "$work/app"
