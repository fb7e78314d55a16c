"""ECR: what `docker login` and a push need. Ruled by API_GetAuthorizationToken of the ECR API reference."""

import base64

from miniecs import auth
from miniecs.auth import Credentials
from miniecs.records import Call
from miniecs.wire import Answer, Shape


def get_authorization_token(call: Call, _request: Shape) -> Answer:
    """User AWS and a password that is good for twelve hours at the registry of this server."""
    expires_at = int(call.now) + auth.TOKEN_SECONDS
    password = auth.registry_password(Credentials(call.caller, call.secret), expires_at)
    token = base64.b64encode(f"{auth.USER}:{password}".encode()).decode()
    data = {"authorizationToken": token, "expiresAt": float(expires_at), "proxyEndpoint": call.endpoint}
    return Answer(authorization_data=[data])
