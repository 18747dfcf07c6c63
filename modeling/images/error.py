"""What is said of pictures that cannot be used."""


class ImageError(ValueError):
    """An image, or a folder of images, that cannot be used; the message says why."""
