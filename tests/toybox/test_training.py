"""The toybox's own training: small runs end to end, the folder's layout, and the loss."""

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from support.quiet import quiet_trainer
from support.resuming import assert_same
from support.tiny import loaded
from torch import Tensor

from asdkit import ToyboxData, TrainCLIP, TrainUNet, TrainVAE
from asdkit.scores.prior import NULL, Condition
from asdkit.toybox.captions import parse, vocabulary
from asdkit.toybox.things import is_held_out
from asdkit.toybox.training import renders as renders_module
from asdkit.toybox.training.common import build_tokenizer, read_autoencoder
from asdkit.toybox.training.renders import Renders, encode, render_cache
from asdkit.toybox.training.vae import _detail_difference, random_crops


def data(cache: Path, weights: Path | None = None) -> ToyboxData:
    """Pictures, or latents by these weights."""
    vae = str(weights / "vae") if weights else ""
    return ToyboxData(cache=str(cache), count=24, held_out=8, batch_size=8, size=64, vae=vae)


def unet_of(output: Path, **settings: object) -> TrainUNet:
    return TrainUNet(str(output), **{"channels": (16, 32), "text_width": 32, **settings})


def vae_of(output: Path, **settings: object) -> TrainVAE:
    module = TrainVAE(str(output), **{"width": 8, "latent_channels": 4, **settings})
    module.trainer = pl.Trainer(max_steps=30, logger=False, enable_checkpointing=False)
    return module


def clip_of(output: Path, **settings: object) -> TrainCLIP:
    return TrainCLIP(str(output), **{"width": 32, "layers": 1, "size": 64, **settings})


def trainer(folder: Path, steps: int, every: int = 100) -> pl.Trainer:
    saver = pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=-1, filename="{step}")
    often = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None, "val_check_interval": 2}
    return quiet_trainer(steps, enable_checkpointing=True, callbacks=[saver], **often)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def renders(cache: Path) -> Renders:
    return Renders(render_cache(cache, 24, 0, size=64), 8, seed=3)


@pytest.fixture(scope="module")
def weights(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder and a CLIP, trained for a few steps by the very modules that made the shipped ones."""
    folder = tmp_path_factory.mktemp("weights")
    trainer(folder / "a", 2).fit(vae_of(folder), data(cache))
    trainer(folder / "b", 2).fit(unet_of(folder), data(cache, folder))
    trainer(folder / "c", 2).fit(clip_of(folder), data(cache))
    return folder


def test_the_cache_is_drawn_statelessly_and_labels_belong_to_pictures(cache: Path, renders: Renders) -> None:
    batch, resumed = renders.batch(5), next(iter(Renders(render_cache(cache, 24, 0, size=64), 8, seed=3, first=5)))
    assert torch.equal(batch.images, resumed.images)
    assert batch.captions == resumed.captions != renders.batch(6).captions
    assert parse(batch.prompts[0]).kind == renders.chunks[0]["things"][int(batch.which[0])][0]
    held_out = Renders(render_cache(cache, 8, 0, held_out=True, size=64), 8).batch(0)
    for prompts, expected in ((batch.prompts, False), (held_out.prompts, True)):
        assert all(is_held_out(parse(prompt)) == expected for prompt in prompts)


def test_a_cache_of_latents_holds_the_latents_of_the_pictures(cache: Path, renders: Renders, weights: Path) -> None:
    vae, pictures = read_autoencoder(weights / "vae"), renders.batch(5)
    latents = Renders(render_cache(cache, 24, 0, size=64, vae=vae), 8, seed=3).batch(5)
    assert latents.images.shape == (8, 4, 8, 8)
    assert latents.captions == pictures.captions
    assert latents.views.height == pictures.views.height == 64
    assert torch.allclose(latents.images, encode(vae, pictures.images).float(), atol=0.02)  # pictures are of 8 bits
    assert latents.images.std() == pytest.approx(1, abs=0.5)


def test_a_stopped_cache_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that are done are not rendered again."""
    monkeypatch.setattr(renders_module, "_CHUNK", 4)
    whole = render_cache(tmp_path / "whole", 10, 0, size=16)
    folder = tmp_path / "stopped" / whole.name
    shutil.copytree(whole, folder)
    (folder / "00000004.pt").unlink()
    times = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert render_cache(tmp_path / "stopped", 10, 0, size=16) == folder
    assert times.items() <= {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}.items()
    for mine, expected in zip(Renders(folder, 1).chunks, Renders(whole, 1).chunks, strict=True):
        assert mine["things"] == expected["things"] and len(mine["images"]) == len(mine["things"])
        assert all(torch.equal(mine[name], expected[name]) for name in ("images", "cameras"))


def test_the_folder_has_the_layout_of_transformers_4_and_a_token_for_each_word(weights: Path) -> None:
    names = load_file(weights / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    assert all(tensor.dtype == torch.float16 for tensor in names.values() if tensor.is_floating_point())
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= {p.name for p in (weights / "tokenizer").iterdir()}
    scheduler = json.loads((weights / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"
    tokenizer = build_tokenizer()
    assert [word for word in vocabulary() if len(tokenizer.tokenize(word)) != 1] == []
    assert len(tokenizer.tokenize("zebra")) > 1


def test_a_plain_stable_diffusion_pipeline_loads_it_and_agrees(weights: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(weights, local_files_only=True, safety_checker=None)
    prior = loaded(weights)
    x_t, t = torch.randn(2, *prior.latent_shape(128, 128)), torch.tensor([400, 400])
    x = prior.draw(torch.zeros_like(x_t), t, x_t / prior.schedule.sigma(t))
    ours = x.predict(Condition("a red car", view_dependent=False))
    tokens = pipeline.tokenizer("a red car", padding="max_length", return_tensors="pt").input_ids
    text = pipeline.text_encoder(tokens).last_hidden_state.expand(2, -1, -1)
    with torch.no_grad():
        v = pipeline.unet(x.x_t.float(), x.t, text).sample
    assert torch.allclose(ours, x.alpha * v + x.sigma * x.x_t, atol=1e-5)
    assert not torch.allclose(ours, x.predict(NULL))


def test_resuming_the_unet_is_exact(cache: Path, weights: Path, tmp_path: Path) -> None:
    whole, half = unet_of(weights), unet_of(weights)
    trainer(tmp_path / "whole", 4, every=2).fit(whole, data(cache, weights))
    checkpoint = next((tmp_path / "whole").glob("step=2*.ckpt"))
    trainer(tmp_path / "half", 4).fit(half, data(cache, weights), ckpt_path=checkpoint)
    assert_same(whole.state_dict(), half.state_dict())


def test_the_unets_loss_is_the_squared_error_in_v(cache: Path, weights: Path) -> None:
    module = unet_of(weights)
    batch, seen = Renders(data(cache, weights).folders()["trained"], 8).batch(0), {}
    x0 = batch.images

    class Oracle(torch.nn.Module):
        tokenizer = module.net.tokenizer

        def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, views, has_camera: Tensor) -> Tensor:
            alpha, sigma = module.schedule.alpha(t), module.schedule.sigma(t)
            eps = (x_t - alpha * x0) / sigma
            seen.update(t=t, tokens=tokens, has_camera=has_camera)
            return alpha * eps - sigma * x0 + 0.5

    generator = torch.Generator().manual_seed(0)
    loss = module._loss(Oracle(), batch, generator)
    assert loss.item() == pytest.approx(0.25, rel=1e-3)
    assert torch.equal((seen["t"] * 8 // 1000).sort().values, torch.arange(8))
    without_text = (seen["tokens"][:, 1] == module.net.tokenizer.eos_token_id).float()
    assert (seen["has_camera"] * without_text).sum() == 0


def test_the_averaged_network_sees_its_own_camera(renders: Renders, weights: Path) -> None:
    module, batch = unet_of(weights), renders.batch(0)
    for net in (module.net, module.average.module):
        torch.nn.init.normal_(net.camera.out.weight, generator=torch.Generator().manual_seed(1))
    x_t, t = torch.randn(8, 4, 16, 16), torch.tensor([100, 700]).repeat(4)
    tokens = module.net.tokenizer(batch.captions, padding="max_length", return_tensors="pt").input_ids
    module.net(x_t, t, tokens, batch.views, torch.zeros(8))
    with_camera = module.average.module(x_t, t, tokens, batch.views, torch.ones(8))
    assert torch.equal(with_camera, module.net(x_t, t, tokens, batch.views, torch.ones(8)))
    assert not torch.equal(with_camera, module.net(x_t, t, tokens, batch.views, torch.zeros(8)))


def test_training_goes_on_from_a_folder(weights: Path, tmp_path: Path) -> None:
    """Every network has the folder's weights, also those in several files; latents are pulled to the autoencoder's."""
    split = shutil.copytree(weights, tmp_path / "split")
    shutil.rmtree(split / "unet")
    UNet2DConditionModel.from_pretrained(weights / "unet").half().save_pretrained(
        split / "unet", max_shard_size="200KB"
    )
    assert len(list((split / "unet").glob("*.safetensors"))) > 1
    modules = [unet_of(weights, start=str(folder), seed=7) for folder in (weights, split)]
    vae, clip = (made(tmp_path, start=str(weights), seed=7) for made in (vae_of, clip_of))
    networks = [(vae.vae, "vae"), (clip.clip, "clip")]
    for net in (each for module in modules for each in (module.net, module.average.module)):
        networks += [(getattr(net, name), name) for name in ("unet", "text_encoder", "camera")]
    for network, name in networks:
        (file,) = (weights / name).glob("*.safetensors")
        saved, mine = (
            {key.removeprefix("text_model."): value for key, value in tensors.items()}
            for tensors in (load_file(file), network.state_dict())
        )
        assert mine.keys() == saved.keys()
        assert all(torch.equal(mine[key], saved[key].to(mine[key].dtype)) for key in saved), name

    images, old = torch.rand(2, 3, 64, 64) * 2 - 1, read_autoencoder(weights / "vae")
    pull = vae._pull_to_start(images, torch.zeros(2, 4, 8, 8))
    assert pull.item() == pytest.approx(0.1 * old.encode(images).latents.square().mean().item(), rel=1e-4)


def test_starts_of_other_sizes_and_missing_files_are_refused(cache: Path, weights: Path, tmp_path: Path) -> None:
    start, nowhere = {"start": str(weights)}, {"start": str(tmp_path / "none")}
    for made, wrong, said in (
        (unet_of, {"channels": (16, 48)} | start, "can't be started from: "),
        (unet_of, nowhere, "can't be started from: "),
        (vae_of, {"latent_channels": 8} | start, "can't be started from: "),
        (vae_of, nowhere, "holds no autoencoder"),
        (vae_of, {"decoder_only": True}, "name its folder by start"),
        (clip_of, {"width": 64} | start, "can't be started from: "),
        (clip_of, nowhere, "can't be started from: "),
    ):
        with pytest.raises(ValueError, match=said):
            made(weights, **wrong)
    with pytest.raises(ValueError, match="learns from latents"):
        trainer(tmp_path, 1).fit(unet_of(weights), data(cache))


def test_a_decoder_is_trained_alone_and_the_latents_stay(cache: Path, weights: Path, tmp_path: Path) -> None:
    trainer(tmp_path / "run", 2).fit(vae_of(tmp_path, start=str(weights), decoder_only=True), data(cache))
    old, new = read_autoencoder(weights / "vae"), read_autoencoder(tmp_path / "vae")
    assert all(torch.equal(p, q) for p, q in zip(old.encoder.parameters(), new.encoder.parameters(), strict=True))
    assert not torch.equal(old.decoder.layers[0].weight, new.decoder.layers[0].weight)
    assert new.config.scaling_factor == old.config.scaling_factor


def test_crops_are_squares_of_the_pictures_on_multiples_of_8() -> None:
    with pytest.raises(ValueError, match="crop is a multiple of 8, not 60"):
        vae_of(Path("nowhere"), crop=60)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    crops = random_crops(torch.stack([rows, columns]).expand(64, 2, 32, 32), 16, torch.Generator().manual_seed(0))
    corners = crops[:, :, 0, 0]
    assert {(int(y), int(x)) for y, x in corners} == {(y, x) for y in (0, 8, 16) for x in (0, 8, 16)}
    square = crops[:1] - corners[:1, :, None, None]
    assert torch.equal(crops - corners[..., None, None], square.expand(64, 2, 16, 16))
    assert random_crops(torch.rand(2, 3, 8, 8), 16, torch.Generator()).shape == (2, 3, 8, 8)


def test_words_that_are_new_start_at_random_and_the_others_keep_their_embedding(weights: Path, tmp_path: Path) -> None:
    """An earlier folder whose tokens are in reverse order, knows no "red" and has 20 positions."""
    earlier = shutil.copytree(weights, tmp_path / "earlier")
    words = json.loads((weights / "tokenizer" / "vocab.json").read_text())
    tensors = load_file(weights / "text_encoder" / "model.safetensors")
    token, place = (f"text_model.embeddings.{name}_embedding.weight" for name in ("token", "position"))
    table, positions, red = tensors[token], tensors[place][:20].contiguous(), words["red</w>"]
    known = [word for word in reversed(words) if word != "red</w>"]
    (earlier / "tokenizer" / "vocab.json").write_text(json.dumps({word: row for row, word in enumerate(known)}))
    earlier_ones = {token: torch.stack([table[words[word]] for word in known]), place: positions}
    save_file(tensors | earlier_ones, earlier / "text_encoder" / "model.safetensors")

    nets = (unet_of(weights, start=start, seed=7).net for start in ("", str(earlier)))
    fresh, grown = (
        {f"text_model.{name.removeprefix('text_model.')}": value for name, value in net.text_encoder.named_parameters()}
        for net in nets
    )
    others = torch.arange(len(table)) != red
    assert torch.equal(grown[token][red], fresh[token][red])
    assert torch.equal(grown[token][others], table[others].float())
    assert torch.equal(grown[place], torch.cat([positions.float(), fresh[place][20:]]))


def test_the_detail_loss_compares_how_strong_details_are_in_squares_of_six_pixels() -> None:
    """By a slow loop; where the details lie within a square does not matter."""
    a, b = torch.rand(2, 1, 1, 14, 20, generator=torch.Generator().manual_seed(0)).double()

    def strength(x: Tensor, row: int, column: int) -> float:
        total = 0.0
        for i, j in product(range(1 + 6 * row, 7 + 6 * row), range(1 + 6 * column, 7 + 6 * column)):
            around = x[0, 0, i - 1, j] + x[0, 0, i + 1, j] + x[0, 0, i, j - 1] + x[0, 0, i, j + 1]
            total += abs(x[0, 0, i, j] - around / 4).item() / 36
        return total

    squares = product(range(2), range(3))
    expected = sum((strength(a, *square) - strength(b, *square)) ** 2 for square in squares) / 6
    assert _detail_difference(a, b).item() == pytest.approx(expected)


def test_the_autoencoder_is_trained_for_details_by_their_weight(renders: Renders, tmp_path: Path) -> None:
    losses = []
    for weight in (0.0, 1.0, 3.0):
        module = vae_of(tmp_path, detail_weight=weight)
        module.log_dict = lambda *_, **__: None
        losses.append(module.training_step(renders.batch(0)).item())
    assert losses[1] > losses[0] and losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-2)
