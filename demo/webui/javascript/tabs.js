// Going to a tab, and what buttons of the page do there.

function switchToTab(number) {
    gradioApp().querySelectorAll("#tabs > .tab-nav > button")[number].click();
}

function switch_to_txt2img() {
    switchToTab(0);
    return Array.from(arguments);
}

function switch_to_img2img() {
    switchToTab(1);
    gradioApp().querySelectorAll("#mode_img2img > .tab-nav > button")[0].click();
    return Array.from(arguments);
}

function switch_to_inpaint() {
    switchToTab(1);
    gradioApp().querySelectorAll("#mode_img2img > .tab-nav > button")[1].click();
    return Array.from(arguments);
}

function switchWidthHeight(tab) {
    const [width, height] = ["width", "height"].map((side) => gradioApp().querySelector(`#${tab}_${side} input[type=number]`));
    [width.value, height.value] = [height.value, width.value];
    [width, height].forEach(updateInput);
}

// Gradio counts tokens when the prompt changes; nothing else is to be done after pasting.
function recalculate_prompts_txt2img() {
    return Array.from(arguments);
}

function recalculate_prompts_img2img() {
    return Array.from(arguments);
}

// Tooltips that components were given on the server.
onUiLoaded(() => {
    for (const component of gradio_config.components) {
        const {elem_id: id, webui_tooltip: tooltip} = component.props;
        const element = id && tooltip && gradioApp().getElementById(id);
        if (element) element.title = tooltip;
    }
});
