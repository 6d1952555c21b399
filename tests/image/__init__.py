"""The image, really built and started: by Debian's buildah, on a Debian made by debootstrap."""
