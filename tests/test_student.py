"""A student learns from a teacher what lesions and faults of images hide, and draws whole brains as it does."""

import math
from dataclasses import fields, replace

import pytest
import torch
from phantoms import LESION_CROSSINGS, class_cascade, make_head, tiny_cascade

from singlestrip.cli.main import main
from singlestrip.configuration import LESION_CLASSES, StudentTrainConfig, SynthConfig
from singlestrip.errors import ModelError
from singlestrip.networks.cascade import Cascade
from singlestrip.networks.checkpoint import load_model, save_model
from singlestrip.networks.losses import distillation_loss
from singlestrip.synthesis.image import synthesise
from singlestrip.training.cascade import CascadeTask, TrainingData, cascade_setup, train_cascade
from singlestrip.training.maps import ImageSource, image_sources
from singlestrip.training.run import Run

CPU = torch.device("cpu")
VOXEL_MM = 8.0
CASCADE = tiny_cascade(VOXEL_MM)
CONFIG = StudentTrainConfig(steps=4, warmup=1, lr=1e-3, amp="off", save_every=1000)
# All that `SynthParameters.whole` takes away, each in every image.
HIDING = {f"{name}_probability": 1.0 for name in ("lesion", "craniotomy", "void", "fat_shift", "wrap", "ghost")}


@pytest.fixture(scope="module")
def head():
    return make_head(24, spacing_mm=VOXEL_MM)


def new_model(seed=0):
    torch.manual_seed(seed)
    return Cascade(CASCADE).eval()


def segmenter_source(head, synth) -> ImageSource:
    return image_sources([head.native], CASCADE, replace(CONFIG, synth=synth), CPU)["segmenter"]


# What is asked


def test_the_loss_is_the_divergence_of_both_probabilities():
    p, q = 0.8, 0.3  # of the teacher and the student
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    def line(*values):
        return torch.tensor(values).view(1, 1, 1, 1, -1)

    logits = line(math.log(q / (1 - q)), 5.0, 2.0), line(math.log(p / (1 - p)), -5.0, 2.0)
    # The second voxel has no weight, and in the third both agree.
    assert distillation_loss(*logits, line(1.0, 0.0, 1.0)).item() == pytest.approx(expected / 2, abs=1e-6)


def test_where_both_agree_there_is_nothing_to_learn():
    logit = torch.linspace(-30, 30, 27).view(1, 1, 3, 3, 3).requires_grad_()
    loss = distillation_loss(logit, logit.detach().clone(), torch.ones(1, 1, 3, 3, 3))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7) and logit.grad.abs().max() < 1e-7


def test_a_batch_is_the_mean_of_its_images():
    torch.manual_seed(0)
    logit, teacher = torch.randn(2, 2, 1, 4, 4, 4)
    weight = torch.rand(2, 1, 4, 4, 4)
    single = [distillation_loss(logit[k : k + 1], teacher[k : k + 1], weight[k : k + 1]) for k in range(2)]
    assert distillation_loss(logit, teacher, weight).item() == pytest.approx(sum(single).item() / 2, abs=1e-6)


# What is seen


@pytest.mark.parametrize("number", range(4))
def test_a_whole_image_is_the_same_image_without_what_hides_the_brain(head, number):
    source = segmenter_source(head, replace(CONFIG.synth, **HIDING))
    maps, window, (drawn,) = source._drawn([number], number)
    kept = {each.name for each in fields(drawn)} - {
        "lesions", "craniotomy", "voids", "fat_shift", "wrap_around", "ghost"
    }  # fmt: skip
    whole = drawn.whole()
    assert all(getattr(whole, name) is getattr(drawn, name) for name in kept)
    assert not (whole.craniotomy or whole.voids or whole.fat_shift or whole.wrap_around or whole.ghost)
    image, brain, _ = synthesise(maps, window, [drawn])
    as_whole, brain_of_whole, _ = synthesise(maps, window, [whole])
    # The brain keeps its shape, though lesions push it aside, and the image is another one.
    assert torch.equal(brain, brain_of_whole) and not torch.equal(image, as_whole)
    # A lesion that is not painted is one that cannot be seen.
    unseen = [
        replace(lesion, zones=tuple(replace(zone, opacity=0.0) for zone in lesion.zones))
        for lesion in drawn.lesions
    ]
    assert torch.equal(synthesise(maps, window, [replace(whole, lesions=tuple(unseen))])[0], as_whole)


def test_images_that_are_whole_come_twice(head):
    source = segmenter_source(head, SynthConfig().whole())
    for number in range(3):
        image, whole, weight = source.draw_pairs([number], number)
        assert torch.equal(image, whole)
        assert torch.equal(image, source.draw([number], number)[0]) and weight.any()


def test_no_loss_is_taken_where_one_of_both_has_no_data(head):
    source = segmenter_source(head, replace(SynthConfig().whole(), wrap_probability=1.0, wrap_depth_mm=(45, 45)))
    differ = 0
    for number in range(4):
        maps, window, (drawn,) = source._drawn([number], number)
        alone, of_whole = (synthesise(maps, window, [each])[2] for each in (drawn, drawn.whole()))
        assert torch.equal(source.draw_pairs([number], number)[2], alone * of_whole)
        differ += not torch.equal(alone, of_whole)
    assert differ > 0


# What becomes of it


def make_run(head, config=CONFIG, teacher=None):
    data = TrainingData([head.native], teacher or new_model())
    return Run(CascadeTask(data, cascade_setup(data, CASCADE, config), CPU))


def test_a_student_begins_where_its_teacher_is_and_stays_there_without_lesions(head):
    teacher = new_model()
    config = replace(CONFIG, synth=SynthConfig().whole(), weight_decay=0.0)
    run = make_run(head, config, teacher)
    for _ in range(3):
        assert max(run.update().values()) < 1e-6
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        now, before = (torch.sigmoid(each.segmenter(image)) for each in (run.task.model, teacher))
    # Adam takes steps of one size, however small a gradient is: those of rounding lead nowhere.
    assert (now - before).abs().max() < 0.02


def test_the_teacher_does_not_learn(head):
    teacher = new_model()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    run = make_run(head, teacher=teacher)
    run.update()
    for model in (teacher, run.task.teacher):
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(run.task.model.state_dict()["segmenter.head.bias"], before["segmenter.head.bias"])


def test_a_student_learns_what_the_teacher_says_of_the_whole_image(head, monkeypatch):
    """One image again and again, with a lesion: the student ends with the answer for the image without."""
    run = make_run(head, replace(CONFIG, steps=60, lr=5e-3, average=0.5, synth=replace(CONFIG.synth, **HIDING)))
    task = run.task
    pairs = {name: source.draw_pairs([3], 3) for name, source in task.sources.items()}
    monkeypatch.setattr(ImageSource, "draw_pairs", lambda self, *number: pairs[list(pairs)[self.network]])
    image, whole, weight = pairs["segmenter"]
    with torch.no_grad():
        target = task.teacher.segmenter(whole)
        before = distillation_loss(task.teacher.segmenter(image), target, weight)
        while run.step < task.config.steps:
            with torch.enable_grad():
                run.update()
        after = distillation_loss(task.average.model.segmenter(image), target, weight)
    assert after < 0.2 * before


def test_a_run_is_resumed_with_its_teacher(head, tmp_path):
    out = tmp_path / "model.safetensors"

    def train(teacher, steps, resume):
        data, config = TrainingData([head.native], teacher), replace(CONFIG, steps=steps)
        train_cascade(data, out, CASCADE, config, device=CPU, resume=resume)

    train(new_model(0), 2, False)
    with pytest.raises(ModelError, match="other images or masks"):
        train(new_model(1), 3, True)
    train(new_model(0), 3, True)


# The command


@pytest.fixture
def given(tmp_path):
    save_model(tmp_path / "teacher.safetensors", new_model(), {"made": "for tests"})
    image, mask, _ = make_head(24, VOXEL_MM).save(tmp_path)
    out = tmp_path / "student.safetensors"
    return [str(each) for each in ("train", "-i", image, "-m", mask, "-o", out, "--no-quality", "--steps", 2)]


def test_the_command_learns_from_a_teacher(given, tmp_path, capsys):
    teacher = tmp_path / "teacher.safetensors"
    assert main([*given, "--teacher", str(teacher)]) == 0
    model, header = load_model(tmp_path / "student.safetensors")
    provenance = header["provenance"]
    assert model.config == CASCADE
    assert provenance["teacher"] == {"name": teacher.name, "provenance": {"made": "for tests"}}
    assert "init" not in provenance and provenance["configuration"]["synth"]["lesion_probability"] == 1.0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--init", "none"], "give no --init"),
        (["--voxel-size", "9"], "give no --init, --voxel-size"),
        (["--find-lesions"], "--classes or --find-lesions"),
    ],
)
def test_a_teacher_decides_what_others_would(given, tmp_path, capsys, more, said):
    with pytest.raises(SystemExit):
        main([*given, "--teacher", str(tmp_path / "teacher.safetensors"), *more])
    assert said in capsys.readouterr().err


def test_no_teacher_is_none(given, capsys):
    with pytest.raises(SystemExit):
        main([*given, "--teacher", "none"])
    assert "--teacher is a model" in capsys.readouterr().err


def test_a_teacher_of_classes_is_refused(given, tmp_path, capsys):
    model = class_cascade(VOXEL_MM, 24, LESION_CLASSES, LESION_CROSSINGS)
    save_model(tmp_path / "classes.safetensors", model, {})
    with pytest.raises(SystemExit):
        main([*given, "--teacher", str(tmp_path / "classes.safetensors")])
    assert "tells classes apart" in capsys.readouterr().err


def test_a_teacher_of_larger_brains_is_refused(given, tmp_path, capsys):
    save_model(tmp_path / "large.safetensors", Cascade(tiny_cascade(3 * VOXEL_MM)), {})
    with pytest.raises(SystemExit):
        main([*given, "--teacher", str(tmp_path / "large.safetensors")])
    assert "brains of another size" in capsys.readouterr().err
