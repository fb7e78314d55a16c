"""Errors: what a user of the command line can act on, and the error names of the AWS services as exceptions.

The ground of miniecs; imports nothing of ours. An `AwsError` becomes an answer in `server`; its class name is the code
on the wire. Ruled by the error shapes of the services' API references.
"""


class Error(Exception):
    """What, on which thing, and what to try: one line for a person at the command line."""

    exit_code = 1


class AwsError(Exception):
    """An answer that is an error: the class is the code, the text is the message."""

    status = 400
    text = ""

    def __init__(self, message: str = "", **members: object) -> None:
        super().__init__(message or self.text)
        self.members = members

    @property
    def code(self) -> str:
        return type(self).__name__

    def to_json(self) -> dict[str, object]:
        return {"__type": self.code, "message": str(self), **self.members}


# --- any service -----------------------------------------------------------------------------------------------------


class SerializationException(AwsError):
    """The body is no JSON, or a member has another type than the model says."""


class UnknownOperationException(AwsError):
    """No service of ours has an operation of this name."""


class UnsupportedFeatureException(AwsError):
    """The service has it, we do not yet."""


class ValidationException(AwsError):
    """A member is missing or out of its range (services other than ECS and ECR)."""


class AuthError(AwsError):
    """The request is not signed, or not by someone we know; never raised itself."""


class MissingAuthenticationTokenException(AuthError):
    text = "Missing Authentication Token"


class IncompleteSignatureException(AuthError):
    """The Authorization header lacks a part."""


class UnrecognizedClientException(AuthError):
    text = "The security token included in the request is invalid."


class InvalidSignatureException(AuthError):
    text = (
        "The request signature we calculated does not match the signature you provided. "
        "Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )


class JoinTokenException(AuthError):
    """The join token is unknown, expired or revoked (ours: no AWS service has one)."""


class AccessDeniedException(AwsError):
    """The caller is known, and may not do this."""


class ServerException(AwsError):
    status = 500
    text = "Service Unavailable. Please try again later."


# --- ECS -------------------------------------------------------------------------------------------------------------


class ClientException(AwsError):
    """The request names something that is not there, or not so."""


class InvalidParameterException(AwsError):
    """A parameter is missing, unknown or out of its range."""


class ConflictException(AwsError):
    """A client token was used before, with other arguments."""


class ClusterNotFoundException(AwsError):
    text = "Cluster not found."


class ClusterContainsServicesException(AwsError):
    text = "The Cluster cannot be deleted while Services are active."


class ClusterContainsTasksException(AwsError):
    text = "The Cluster cannot be deleted while Tasks are active."


class ClusterContainsContainerInstancesException(AwsError):
    text = "The Cluster cannot be deleted while Container Instances are active or draining."


class ServiceNotFoundException(AwsError):
    text = "Service not found."


class ServiceNotActiveException(AwsError):
    text = "Service was not ACTIVE."
