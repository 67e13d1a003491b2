"""Services beside EC2."""

from moto.acm.models import AWSCertificateManagerBackend
from moto.s3.responses import S3Response
from moto.secretsmanager.exceptions import InvalidRequestException
from moto.secretsmanager.models import SecretsManagerBackend

DELETE_CERTIFICATE = AWSCertificateManagerBackend.delete_certificate
GET_BUCKET_VERSIONING = S3Response.get_bucket_versioning
CREATE_SECRET = SecretsManagerBackend.create_secret


def get_bucket_versioning(self):
    """The answer under the name that S3 gives it: moto names it after the call."""
    status, headers, body = GET_BUCKET_VERSIONING(self)
    text = body.decode() if isinstance(body, bytes) else body
    return status, headers, text.replace("GetBucketVersioningResponse", "VersioningConfiguration")


def delete_certificate(self, arn):
    """Its token goes with it: moto would answer the next request with a certificate that is gone."""
    DELETE_CERTIFICATE(self, arn)
    self._idempotency_tokens = {
        token: given for token, given in self._idempotency_tokens.items() if given["arn"] != arn
    }


def create_secret(self, name, *rest, **more):
    """One that waits for its end is in the way, whatever token it was made with: moto would answer with it."""
    if name in self.secrets and self.secrets[name].is_deleted():
        raise InvalidRequestException(
            "You can't create this secret because a secret with this name is already scheduled for deletion."
        )
    return CREATE_SECRET(self, name, *rest, **more)


def apply():
    """Changes moto's classes."""
    AWSCertificateManagerBackend.delete_certificate = delete_certificate
    S3Response.get_bucket_versioning = get_bucket_versioning
    SecretsManagerBackend.create_secret = create_secret
