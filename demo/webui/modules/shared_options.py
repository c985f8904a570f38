"""The settings that this host knows, under the real host's names, labels and defaults.

One row is ``name: (default, label)`` or ``name: (default, label, label in the infotext)``.
"""

from __future__ import annotations

import os

from modules.options import OptionInfo, options_section
from modules.paths_internal import data_path, default_output_dir

SAVING = {
    "samples_save": (True, "Always save all generated images"),
    "samples_format": ("png", "File format for images"),
    "grid_save": (True, "Always save all generated image grids"),
    "grid_format": ("png", "File format for grids"),
    "grid_only_if_multiple": (True, "Do not save grids consisting of one picture"),
    "save_incomplete_images": (False, "Save incomplete images"),
    "jpeg_quality": (80, "Quality for saved jpeg images"),
    "enable_pnginfo": (True, "Write infotext to metadata of the generated image"),
    "outdir_samples": ("", "Output directory for images; if empty, defaults to the directories below"),
    "outdir_txt2img_samples": (
        os.path.join(default_output_dir, "txt2img-images"),
        "Output directory for txt2img images",
    ),
    "outdir_img2img_samples": (
        os.path.join(default_output_dir, "img2img-images"),
        "Output directory for img2img images",
    ),
    "outdir_grids": ("", "Output directory for grids; if empty, defaults to the directories below"),
    "outdir_txt2img_grids": (
        os.path.join(default_output_dir, "txt2img-grids"),
        "Output directory for txt2img grids",
    ),
    "outdir_img2img_grids": (
        os.path.join(default_output_dir, "img2img-grids"),
        "Output directory for img2img grids",
    ),
    "outdir_save": (
        os.path.join(data_path, "log", "images"),
        "Directory for saving images using the Save button",
    ),
}

MODEL = {
    "sd_model_checkpoint": (None, "Stable Diffusion checkpoint", "Model hash"),
    "sd_checkpoint_hash": ("", "SHA256 hash of the current checkpoint"),
    "sd_checkpoints_limit": (1, "Maximum number of checkpoints loaded at the same time"),
    "CLIP_stop_at_last_layers": (1, "Clip skip", "Clip skip"),
    "emphasis": ("Original", "Emphasis mode", "Emphasis"),
    "comma_padding_backtrack": (20, "Prompt word wrap length limit"),
    "use_old_scheduling": (False, "Use old prompt editing timelines.", "Old prompt editing timelines"),
    "randn_source": ("GPU", "Random number generator source.", "RNG"),
    "tiling": (False, "Tiling", "Tiling"),
    "upcast_attn": (False, "Upcast cross attention layer to float32"),
    "cross_attention_optimization": ("Automatic", "Cross attention optimization"),
    "persistent_cond_cache": (True, "Persistent cond cache"),
    "batch_cond_uncond": (True, "Batch cond/uncond"),
    "pad_cond_uncond": (False, "Pad prompt/negative prompt", "Pad conds"),
    "pad_cond_uncond_v0": (False, "Pad prompt/negative prompt (v0)", "Pad conds v0"),
    "s_min_uncond": (0.0, "Negative Guidance minimum sigma", "NGMS"),
    "s_min_uncond_all": (False, "Negative Guidance minimum sigma all steps", "NGMS all steps"),
    "skip_early_cond": (0.0, "Ignore negative prompt during early sampling", "Skip Early CFG"),
    "refiner_switch_by_sample_steps": (
        False, "Switch to refiner by sampling steps instead of model timesteps.",
        "Refiner switch by sampling steps",
    ),
    "hires_fix_refiner_pass": ("second pass", "Hires fix: which pass to enable refiner for", "Hires refiner"),
    "hires_fix_use_firstpass_conds": (False,
    "Calculate conds of the second pass with the first pass's networks."),
}  # fmt: skip

SAMPLER = {
    "hide_samplers": ([], "Hide samplers in user interface"),
    "eta_ddim": (0.0, "Eta for DDIM", "Eta DDIM"),
    "eta_ancestral": (1.0, "Eta for k-diffusion samplers", "Eta"),
    "s_churn": (0.0, "sigma churn", "Sigma churn"),
    "s_tmin": (0.0, "sigma tmin", "Sigma tmin"),
    "s_tmax": (0.0, "sigma tmax", "Sigma tmax"),
    "s_noise": (1.0, "sigma noise", "Sigma noise"),
    "sigma_min": (0.0, "sigma min", "Schedule min sigma"),
    "sigma_max": (0.0, "sigma max", "Schedule max sigma"),
    "rho": (0.0, "rho", "Schedule rho"),
    "eta_noise_seed_delta": (0, "Eta noise seed delta", "ENSD"),
    "always_discard_next_to_last_sigma": (
        False,
        "Always discard next-to-last sigma",
        "Discard penultimate sigma",
    ),
}

IMG2IMG = {
    "initial_noise_multiplier": (1.0, "Noise multiplier for img2img", "Noise multiplier"),
    "img2img_extra_noise": (0.0, "Extra noise multiplier for img2img and hires fix", "Extra noise"),
    "img2img_fix_steps": (False, "With img2img, do exactly the amount of steps the slider specifies."),
    "img2img_background_color": ("#ffffff", "With img2img, fill transparent parts with this color."),
    "inpainting_mask_weight": (1.0, "Inpainting conditioning mask strength", "Conditional mask weight"),
    "overlay_inpaint": (True, "Overlay original for inpaint"),
    "return_mask": (False, "For inpainting, include the greyscale mask in results for web"),
}

INTERFACE = {
    "localization": ("None", "Localization"),
    "return_grid": (True, "Show grid in gallery"),
    "samplers_in_dropdown": (True, "Use dropdown for sampler selection instead of radio group"),
    "hires_fix_show_sampler": (False, "Hires fix: show hires checkpoint and sampler selection"),
    "hires_fix_show_prompts": (False, "Hires fix: show hires prompt and negative prompt"),
    "send_seed": (True, "Send seed when sending prompt or image to other interface"),
    "send_size": (True, "Send size when sending prompt or image to another interface"),
    "interrupt_after_current": (True, "Don't Interrupt in the middle"),
    "gallery_height": ("", "Gallery height"),
    "add_model_name_to_info": (True, "Add model name to infotext"),
    "add_model_hash_to_info": (True, "Add model hash to infotext"),
    "add_version_to_infotext": (True, "Add program version to infotext"),
    "disable_weights_auto_swap": (True, "Disregard checkpoint information from pasted infotext"),
    "infotext_skip_pasting": ([], "Disregard fields from pasted infotext"),
    "live_previews_enable": (True, "Show live previews of the created image"),
    "live_previews_image_format": ("png", "Live preview file format"),
    "live_preview_content": ("Prompt", "Live preview subject"),
    "live_preview_refresh_period": (1000, "Progressbar and preview update period"),
    "show_progress_every_n_steps": (10, "Live preview display period"),
    "show_progressbar": (True, "Show progressbar"),
    "multiple_tqdm": (False, "Add a second progress bar to the console"),
    "disabled_extensions": ([], "Disable these extensions"),
    "disable_all_extensions": ("none", "Disable all extensions"),
}

SECTIONS = {
    ("saving-images", "Saving images/grids", "saving"): SAVING,
    ("sd", "Stable Diffusion", "sd"): MODEL,
    ("sampler-params", "Sampler parameters", "sd"): SAMPLER,
    ("img2img", "img2img", "sd"): IMG2IMG,
    ("interface", "User interface", "ui"): INTERFACE,
}

options_templates: dict[str, OptionInfo] = {}
for _section, _rows in SECTIONS.items():
    options_templates |= options_section(
        _section,
        {
            name: OptionInfo(row[0], row[1], infotext=row[2] if len(row) > 2 else None)
            for name, row in _rows.items()
        },
    )
restricted_opts: set[str] = {name for name in options_templates if name.startswith("outdir_")}
