"""Real spherical harmonics of degree 0 to 3 in 3DGS's order and signs (Condon-Shortley phase), for numpy and torch."""

from typing import Any

from jaxtyping import Float

SH_0 = 0.28209479177387814  # the harmonic of degree 0: colour = 0.5 + SH_0 * coefficient


def sh_polynomials(
    degree: int, x: Float[Any, "*batch"], y: Float[Any, "*batch"], z: Float[Any, "*batch"]
) -> list[Float[Any, "*batch"]]:
    """The (degree+1)^2 basis functions at the directions x, y, z of unit length, of numpy or torch; degree 0 to 3."""
    basis = [SH_0 + 0 * x]
    if degree >= 1:
        basis += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return basis
