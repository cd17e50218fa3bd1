"""Checks of what `make` makes, for the prior that `prior` makes, a small random one that knows the prompts y and z."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asdkit.core.contexts import replaced
from asdkit.core.randomness import generator_for
from asdkit.discriminators.adapters import Embedding, UNetCopy
from asdkit.discriminators.discriminator import Discriminator
from asdkit.generators.base import Generator, Render
from asdkit.rendering.cameras import Batch, Views, ring
from asdkit.scores.fields import Field
from asdkit.scores.prior import Adapter, Condition, Noised, Prior
from asdkit.testing import questions as ask
from asdkit.testing.questions import SmallPrior, Y, Z, demand, draw, same

State = dict[str, Tensor] | None


def _set_up(make: Callable[[], Prior], prompts: Sequence[Condition] = (Y, Z)) -> Prior:
    prior = make()
    prior.setup()
    prior.prepare(prompts)
    return prior


# ------------------------------------------------------------------------------------------------ generators


def check_generator(make: Callable[[], Generator], prior: Callable[[], Prior] = SmallPrior) -> None:
    """Whether a generator can be trained, shown and saved."""

    def ready(state: State = None, device: str = "cpu") -> tuple[Generator, Prior]:
        generator, model = make(), _set_up(prior)
        if state:
            generator.load_state_dict(state)
        generator.take_prompts([Y.text])
        generator.setup(model, ask.images()[:1])
        return generator.to(device), model.to(device)

    views = None if make().flat else ring(2, size=16)
    generator, _ = ready()
    _check_groups(generator)
    _check_render(generator, views)

    def shown(generator: Generator, model: Prior, device: str = "cpu") -> Render:
        return _shown(generator, views and views.to(device))

    ask.check_part("The generator", ready, shown, lambda generator, model: _step(generator, model, views))


def _shown(generator: Generator, views: Views | None, background: Tensor | None = None) -> Render:
    with torch.no_grad():
        return generator.render(views, background)


def _check_groups(generator: Generator) -> None:
    groups = generator.parameter_groups()
    names = [group.get("name") for group in groups]
    named = all(names) and len({*names}) == len(names) and all("lr" in group for group in groups)
    demand(named, f"Each group of parameter_groups() needs a name of its own and an lr; the names are {names}.")
    given = sorted(id(parameter) for group in groups for parameter in group["params"])
    learning = sorted(id(parameter) for parameter in generator.parameters() if parameter.requires_grad)
    demand(given == learning, "parameter_groups() must have each parameter that learns once, and no other.")


def _check_render(generator: Generator, views: Views | None) -> None:
    render = _shown(generator, views)
    shape = (len(views), 16, 16) if views else (len(render.image), *render.image.shape[2:])
    for name, value, channels in zip(render._fields, render, (3, 1, 1), strict=True):
        ask.check_like(f"render's {name}", value, torch.zeros(shape[0], channels, *shape[1:]))
        demand(value.dtype == torch.float32, f"render's {name} is of {value.dtype}; it must be float32.")
        inside = name == "depth" or (value.min() >= -1e-5 and value.max() <= 1 + 1e-5)
        demand(inside, f"render's {name} reaches from {value.min():.3g} to {value.max():.3g}; it must be in [0,1].")
    if views:
        alone = torch.cat([_shown(generator, views[i : i + 1]).image for i in range(len(views))])
        demand(torch.allclose(alone, render.image, atol=1e-4), "render shows a camera something else beside others.")
    for background in (torch.zeros(3), torch.rand(shape[0], 3, generator=generator_for(0, 0, "background"))):
        shown = _shown(generator, views, background)
        fits = (shown.image - background.reshape(-1, 3, 1, 1)).abs() <= shown.alpha + 1e-4
        demand(fits.all(), "render doesn't show the background, a colour [3] or one a camera [B,3], where alpha is 0.")


def _step(generator: Generator, model: Prior, views: Views | None) -> None:
    batch = Batch(views, ask.images()[:1])
    x0, _ = generator.encoded(model, batch, torch.ones(3), False, generator_for(0, 0, "generator"))
    fits = x0.ndim == 4 and model.channels in (0, x0.shape[1])
    demand(fits, f"encoded gives x0 of the shape {list(x0.shape)}; it must be [B,C,h,w] as of the prior's encode.")
    optimizer = torch.optim.Adam(generator.parameter_groups())
    (x0.square().sum() + generator.regularizer()).backward()
    ask.check_gradients("x0", generator, model)
    generator.before_step()
    optimizer.step()
    generator.after_step(optimizer, 0, generator_for(0, 0, "density"))


# ------------------------------------------------------------------------------------------------ fields


def check_field(make: Callable[[], Field], prior: Callable[[], Prior] = SmallPrior) -> None:
    """Whether a field (a discriminator, an expression, a method) can guide, learn and be saved."""

    def ready(state: State = None, device: str = "cpu") -> tuple[Field, Prior]:
        field, model = make(), _set_up(prior)
        weights = {id(parameter) for parameter in model.parameters()}
        field.load_state_dict(state or {}, strict=False)
        field.bind(Y.text, Z.text)
        field.setup(model)
        apart = not weights & {id(parameter) for parameter in field.parameters()}
        fault = "The field has the prior's weights among its own, which checkpoints would hold and optimisers move"
        demand(apart, f"{fault}; keep the prior by asdkit.core.unregistered.keep_unregistered.")
        return field.to(device), model.to(device)

    def value(field: Field, model: Prior, device: str = "cpu") -> list[Tensor]:
        return [field(draw(model, device)).detach()]

    field, model = ready()
    x, kept = draw(model), draw(model)
    _check_needs(field, x)
    ask.check_like("The field's value", field(x), x.eps)
    untouched = same([x.x0, x.eps, x.x_t], [kept.x0, kept.eps, kept.x_t])
    demand(untouched, "The field changes x0, eps or x_t in place, which the rest of the expression reads after it.")
    ask.check_part("The field", ready, value, _learn_by_loss)


def _check_needs(field: Field, x: Noised) -> None:
    needs, predict = field.needs(x), x.prior.predict
    asked: list[Condition] = []

    def noted(at: Noised, conditions: Sequence[Condition], adapter: Adapter | None = None) -> list[Tensor]:
        asked.extend(conditions if at is x and adapter is None else [])
        return predict(at, conditions, adapter)

    needed = [need[1] if isinstance(need, tuple) else need for need in needs]
    missing = [condition.text for condition in needed if condition not in field.conditions()]
    demand(not missing, f"conditions() lacks {missing} of needs(), so that no text is embedded before the first step.")
    x.prefetch(needs)
    with replaced(x.prior, "predict", noted):
        field(x)
    texts = [condition.text for condition in asked]
    demand(not texts, f"The field asks the prior about {texts} beyond needs(): one more network call in each step.")


def _learn_by_loss(field: Field, model: Prior) -> None:
    learning = [parameter for parameter in field.parameters() if parameter.requires_grad]
    x = draw(model)
    field(x)
    loss = field.loss(x)
    demand(bool(learning) == (loss is not None), "A field needs a loss where it has parameters, and None elsewhere.")
    if loss is None:
        return
    ask.check_like("The loss", loss, torch.zeros(()))
    demand(loss.requires_grad, "The loss depends on no parameter, so that nothing could learn.")
    loss.backward()
    ask.check_gradients("the loss", field, model)
    with torch.no_grad():
        for parameter in learning:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator_for(0, 0, "moved")))
    field.forget(x)
    demand(same(field(x), field(draw(model))), "forget(x) leaves predictions from before the parameters changed.")


# ------------------------------------------------------------------------------------------------ adapters


def check_adapter(make: Callable[[], Adapter], prior: Callable[[], Prior] = SmallPrior, rounding: float = 0.0) -> None:
    """Whether phi can live in an adapter: e_phi starts at e_y, up to `rounding`, and e_y stays as it is to the bit."""
    check_field(lambda: Discriminator(make(), 0.0), prior)
    model, phi = _set_up(prior), Discriminator(make(), 0.0, Y.text)
    e_y, frozen = draw(model).predict(Y), [(weight, weight.clone()) for weight in model.parameters()]
    phi.setup(model)
    demand(same(draw(model).predict(Y), e_y), "Attaching the adapter changes e_y; while it is off it must do nothing.")
    distance = (phi(draw(model)) - e_y).abs().max()
    demand(distance <= rounding, f"e_phi starts {distance:.2g} away from e_y; it must start there.")
    parameters = [*map(id, phi.parameters())]
    phi.setup(model)
    demand(parameters == [*map(id, phi.parameters())], "A second setup must do nothing, and makes other parameters.")
    demand(parameters, "The adapter has no parameter that learns.")
    _learn_by_loss(phi, model)
    demand(not same(phi(draw(model)), e_y), "e_phi is still e_y when phi has changed, as if nothing used it.")
    untouched = all(torch.equal(weight, before) for weight, before in frozen)
    demand(untouched, "A change of phi changes the prior's own weights; it must lie apart from them.")
    x = draw(model)
    x.prefetch([Y, Z], phi.adapter)
    alike = torch.allclose(x.predict(Y, phi.adapter), phi(draw(model)), atol=1e-4)
    demand(alike, "e_phi of a condition is another beside a second one in one network call; see `copies`.")
    demand(same(draw(model).predict(Y), e_y), "e_y is no longer the prior's own once phi has changed.")
    with suppress(InterruptedError), phi.adapter.switched_on(x.views, 1):
        raise InterruptedError
    off = same(draw(model).predict(Y), e_y)
    demand(off, "switched_on leaves the adapter on when there is an error inside; use try and finally.")


# ------------------------------------------------------------------------------------------------ priors


def check_prior(make: Callable[[], Prior], prompts: Sequence[str] = (Y.text, Z.text)) -> None:
    """Whether a prior can be asked about two of the prompts that it knows, and adapted."""
    conditions = [Condition(prompt) for prompt in prompts]

    def ready(device: str = "cpu") -> Prior:
        return _set_up(make, conditions).to(device)

    model = ask.repeatable("Setting up the prior", ready, lambda prior: list(prior.state_dict().values()))
    network = model.network
    model.setup()
    demand(model.network is network, "A second setup must do nothing, and makes another network.")
    demand(not any(p.requires_grad for p in model.parameters()), "The prior's weights must not require a gradient.")
    demand(model.digest and model.digest == ready().digest, f"digest is {model.digest!r}; it must tell the weights.")
    _check_images(model)
    _check_predictions(model, conditions)
    ask.check_devices("predict", ready, lambda own, device: own.predict(draw(own, device), conditions))
    own = {UNetCopy: any(True for _ in network.parameters()), Embedding: bool(model.condition_shape)}
    for adapter in (adapter for adapter, fits in own.items() if fits and tuple(prompts) == (Y.text, Z.text)):
        check_adapter(partial(adapter, camera=bool(model.time_width)), make)


def _check_images(model: Prior) -> None:
    pictures = ask.images().requires_grad_()
    x0 = model.encode(pictures)
    fits = x0.ndim == 4 and len(x0) == len(pictures) and model.channels in (0, x0.shape[1])
    demand(fits, f"encode gives x0 of the shape {list(x0.shape)}; it must be [B,C,h,w], with C the prior's channels.")
    if x0.requires_grad:
        x0.square().sum().backward()
    demand(pictures.grad is not None and pictures.grad.any(), "encode carries no gradient to the pictures.")
    shown = model.decode(x0)
    ask.check_like("What decode gives", shown, torch.zeros(len(x0), 3, *shown.shape[2:]))
    demand(shown.min() >= 0 and shown.max() <= 1, "decode leaves [0,1].")


def _check_predictions(model: Prior, conditions: list[Condition]) -> None:
    x, kept = draw(model), draw(model)
    calls: list[Any] = []
    handle = model.network.register_forward_hook(lambda *_: calls.append(1))
    values = model.predict(x, conditions)
    handle.remove()
    demand(len(calls) == 1, f"predict calls self.network {len(calls)} times; all conditions go through it in one call.")
    demand(len(values) == len(conditions), f"predict gives {len(values)} tensors for {len(conditions)} conditions.")
    demand(same([x.x0, x.eps, x.x_t], [kept.x0, kept.eps, kept.x_t]), "predict changes the draw in place.")
    ask.repeatable("predict", lambda: model.predict(draw(model), conditions))
    own = draw(model, prompts={conditions[0].text: [condition.text for condition in conditions]})
    of_rows = model.predict(own, conditions[:1])[0]
    for row, (condition, value) in enumerate(zip(conditions, values, strict=True)):
        ask.check_like("What predict gives", value, x.eps)
        alone = model.predict(draw(model), [condition])[0]
        demand(torch.allclose(alone, value, atol=1e-4), "predict gives a condition something else beside others.")
        own_prompt = torch.allclose(of_rows[row], value[row], atol=1e-4)
        demand(own_prompt, "predict gives samples with prompts of their own those of others; see Noised.by_own.")
