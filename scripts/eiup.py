"""EIUP in the webui: erases concepts while images are generated."""

from eiup.request import INFOTEXT_KEY
from eiup.webui import compare, heat_maps, journal_page, page, preparing, routes, xyz
from eiup.webui.generation import Generation
from eiup.webui.sampling import SamplingPass
from modules import script_callbacks, scripts


class EiupScript(scripts.Script):
    def title(self):
        return "EIUP"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        components = page.accordion(self.elem_id)
        self.infotext_fields = page.infotext_fields(components)
        self.paste_field_names = [INFOTEXT_KEY]
        return components

    def before_process(self, p, *args):
        Generation.begin(p, args)

    def process_before_every_sampling(self, p, *args, **kwargs):
        Generation.of(p, args).erase_in_next_sampling(p)

    def postprocess_batch(self, p, *args, images, **kwargs):
        generation = Generation.of(p, args)
        try:
            generation.keep_outside(p, images)
        finally:
            generation.record_batch(p)

    def postprocess(self, p, processed, *args):
        generation = Generation.of(p, args)
        generation.end(p)
        compare.after_job(generation, p, processed, self)


script_callbacks.on_cfg_denoiser(SamplingPass.on_denoiser)
script_callbacks.on_cfg_after_cfg(SamplingPass.on_denoised)
script_callbacks.on_image_saved(heat_maps.save_beside)
script_callbacks.on_ui_settings(page.settings)
script_callbacks.on_before_ui(xyz.add_axes)
script_callbacks.on_ui_tabs(journal_page.tab)
script_callbacks.on_app_started(routes.add_routes)
script_callbacks.on_app_started(preparing.on_server_started)
script_callbacks.on_model_loaded(preparing.on_model_loaded)
