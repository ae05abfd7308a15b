"""What other modules use to answer HTTP; the types live below the modules so that `mi/` can use them too."""

from opensipspy.module.http import Handler, HttpdApi, HttpRequest, HttpResponse

__all__ = ["Handler", "HttpRequest", "HttpResponse", "HttpdApi"]
