#!/usr/bin/env python3
"""Writes an OCI archive (image-spec 1.1) of one layer, from a tar of a root file system on standard input.

    oci-archive.py NAME OUT.tar --cmd '["nginx", "-g", "daemon off;"]' [--env K=V]... [--drop PREFIX]...

--drop leaves out what is below a path (usr/share/doc). The same input gives the same archive.
"""

import argparse
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile


def layer(out, drop):
    """Copies the tar on standard input to `out` without what is dropped, owners as numbers and times zeroed."""
    def dropped(name):
        return any(name == d or name.startswith(d + "/") for d in drop)

    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|*") as source, tarfile.open(fileobj=out, mode="w|") as target:
        for member in source:
            name = member.name.removeprefix("./").rstrip("/")
            if not name or name == "." or dropped(name):
                continue
            if member.islnk() and dropped(member.linkname.removeprefix("./")):
                continue  # a hard link to nothing
            if member.ischr() or member.isblk():
                continue  # the runtime makes /dev
            member.name = name
            member.uname = member.gname = ""
            member.mtime = 0
            member.pax_headers = {}
            if member.islnk():
                member.linkname = member.linkname.removeprefix("./")
            target.addfile(member, source.extractfile(member) if member.isreg() else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("out")
    parser.add_argument("--cmd", required=True)
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--drop", action="append", default=[])
    args = parser.parse_args()

    with tempfile.TemporaryFile() as rootfs:
        layer(rootfs, args.drop)
        length = rootfs.tell()
        rootfs.seek(0)
        layer_digest = hashlib.file_digest(rootfs, "sha256").hexdigest()
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        blobs = []

        def blob(value):
            data = json.dumps(value, sort_keys=True).encode()
            digest = hashlib.sha256(data).hexdigest()
            blobs.append((digest, data))
            return {"digest": "sha256:" + digest, "size": len(data)}

        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        config = blob({
            "architecture": machine,
            "os": "linux",
            "config": {"Cmd": json.loads(args.cmd), "Env": ["PATH=" + path, *args.env], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + layer_digest]},
        })
        manifest = blob({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": "sha256:" + layer_digest,
                "size": length,
            }],
        })
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                **manifest,
                "platform": {"architecture": machine, "os": "linux"},
                "annotations": {
                    "io.containerd.image.name": args.name,
                    "org.opencontainers.image.ref.name": args.name.rsplit(":", 1)[1],
                },
            }],
        }

        part = args.out + ".part"
        with tarfile.open(part, "w") as archive:
            def add(name, data, size):
                info = tarfile.TarInfo(name)
                info.size = size
                archive.addfile(info, data)

            def add_bytes(name, data):
                add(name, io.BytesIO(data), len(data))

            add_bytes("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            add_bytes("index.json", json.dumps(index).encode())
            for digest, data in blobs:
                add_bytes("blobs/sha256/" + digest, data)
            rootfs.seek(0)
            add("blobs/sha256/" + layer_digest, rootfs, length)
        os.replace(part, args.out)


main()
