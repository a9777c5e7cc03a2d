"""Options of `compile` about what boots a disk."""

from __future__ import annotations

from typing import Any

import click

from ocifast.cli.options import SIZE, together

__all__ = ["chosen_kernel", "kernel_options"]

kernel_options = together(
    click.option(
        "--esp/--no-esp",
        default=None,
        help="Give a disk an EFI system partition with the kernel, initrd or UKI of the image.  [default: when "
        "--kernel, --initrd, --boot-loader or --esp-size is there, and --extract-kernel is not]",
    ),
    click.option(
        "--kernel",
        metavar="WHERE",
        help="The kernel, or UKI, that boots a disk: a FILE, image:PATH for a path in the image, or image for the "
        "newest that is there.  [default: image]",
    ),
    click.option(
        "--initrd",
        metavar="WHERE",
        help="Its initrd: a FILE, image:PATH, image or none.  [default: the image's, for a kernel of the image]",
    ),
    click.option(
        "--boot-loader",
        metavar="WHERE",
        help="What hands a kernel its initrd and command line: a FILE, image:PATH, image or none.  [default: the "
        "image's systemd-boot]",
    ),
    click.option(
        "--cmdline",
        metavar="WORDS",
        help="More words of the kernel's command line. Those that find the root stand before them, unless they have "
        "root= or roothash=; {root_hash} and {partuuid} are filled in.",
    ),
    click.option(
        "--esp-size",
        metavar="SIZE",
        type=SIZE,
        help="Size of the EFI system partition.  [default: twice what it holds, 64M at least]",
    ),
    click.option(
        "--extract-kernel",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=str),
        help="Write vmlinuz, initrd, uki.efi (as far as there are) and cmdline into DIR, beside a disk.",
    ),
)
"""`chosen_kernel` takes their values."""


def chosen_kernel(values: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Takes the values of the options out of those of all.

    Returns:
        Them as `PackOptions` has them, and the folder for what is extracted.
    """
    names = ("esp", "kernel", "initrd", "boot_loader", "cmdline", "esp_size")
    return {name: values.pop(name) for name in names}, values.pop("extract_kernel")
