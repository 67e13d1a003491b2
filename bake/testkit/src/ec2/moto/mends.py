"""What moto's records get wrong and the proxy cannot put right from outside, by topic: images and their snapshots,
instances, groups, load balancers, other services. `RECORDS` is what the proxy sees and changes besides."""

import balancers
import groups
import images
import instances
import models
import services

RECORDS = balancers.RECORDS | images.RECORDS | instances.RECORDS | groups.RECORDS | models.RECORDS


def apply():
    """Changes moto's classes; before the first request."""
    images.apply()
    instances.apply()
    groups.apply()
    balancers.apply()
    services.apply()
