"""The core's part of the catalogue, built for one server."""

from __future__ import annotations

from opensipspy.script import transformations, transformations_sip
from opensipspy.script.corefuncs import CoreFunctions
from opensipspy.script.corefuncs_server import ServerFunctions
from opensipspy.script.declare import Catalogue
from opensipspy.script.services import ScriptServices
from opensipspy.script.variables import CoreVariables
from opensipspy.script.variables_body import BodyVariables
from opensipspy.script.variables_branch import BranchVariables


def build_catalogue(services: ScriptServices) -> Catalogue:
    """A catalogue with every core function, variable and transformation, to which the modules add theirs."""
    catalogue = Catalogue(modules=["core"])
    CoreFunctions(services).register(catalogue)
    ServerFunctions(services).register(catalogue)
    CoreVariables(services, catalogue).register()
    BranchVariables(services, catalogue).register()
    BodyVariables(services, catalogue).register()
    transformations.register(catalogue, services)
    transformations_sip.register(catalogue)
    return catalogue
