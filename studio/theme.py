"""Colours, type and spacing of Gradio's own components; everything else is ``studio.css``.

System fonts only: the studio makes no foreign request. Contrast of every pair is at least 4.5:1.
"""

from __future__ import annotations

from gradio.themes import Base, Color

from core.home import ASSETS

FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Noto Sans",
    "Noto Sans SC",
    "Noto Sans CJK SC",
    "PingFang SC",
    "Microsoft YaHei",
    "sans-serif",
)
MONO = ("ui-monospace", "Cascadia Mono", "Menlo", "Consolas", "monospace")

# Eleven shades, 50 to 950.
_BLUE = ("#eef4ff", "#dbe6fe", "#bfd3fe", "#93b4fd", "#6090fa", "#3b6cf0", "#2450d6", "#1d40ae")
_BLUE_DEEP = ("#1e398a", "#1e326b", "#172042")
INDIGO = Color(*_BLUE, *_BLUE_DEEP, name="studio")

_LIGHT = {
    "body_background_fill": "#f6f7fb",
    "body_text_color": "#1a2233",
    "body_text_color_subdued": "#52607a",
    "background_fill_primary": "#ffffff",
    "background_fill_secondary": "#f6f7fb",
    "block_background_fill": "#ffffff",
    "block_border_color": "#e3e8f1",
    "border_color_primary": "#e3e8f1",
    "block_label_text_color": "#3a4660",
    "block_title_text_color": "#3a4660",
    "block_info_text_color": "#52607a",
    "input_background_fill": "#ffffff",
    "input_border_color": "#8b97ad",
    "input_border_color_focus": "*primary_500",
    "input_placeholder_color": "#66728a",
    "table_even_background_fill": "#ffffff",
    "table_odd_background_fill": "#fafbfd",
    "table_border_color": "#e3e8f1",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_text_color": "#ffffff",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_hover": "#f0f3f9",
    "button_secondary_border_color": "#b9c3d4",
    "button_secondary_border_color_hover": "#8b97ad",
    "button_secondary_text_color": "#1a2233",
    "slider_color": "*primary_600",
}
_DARK = {
    "body_background_fill": "#0c1120",
    "body_text_color": "#e8ecf5",
    "body_text_color_subdued": "#a8b3ca",
    "background_fill_primary": "#141b2d",
    "background_fill_secondary": "#0c1120",
    "block_background_fill": "#141b2d",
    "block_border_color": "#263149",
    "border_color_primary": "#263149",
    "block_label_text_color": "#c3ccdf",
    "block_title_text_color": "#c3ccdf",
    "block_info_text_color": "#a8b3ca",
    "input_background_fill": "#0f1626",
    "input_border_color": "#64718c",
    "input_border_color_focus": "*primary_400",
    "input_placeholder_color": "#8f9bb3",
    "table_even_background_fill": "#141b2d",
    "table_odd_background_fill": "#172035",
    "table_border_color": "#263149",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_text_color": "#ffffff",
    "button_secondary_background_fill": "#1b2439",
    "button_secondary_background_fill_hover": "#243049",
    "button_secondary_border_color": "#3a4763",
    "button_secondary_border_color_hover": "#64718c",
    "button_secondary_text_color": "#e8ecf5",
    "slider_color": "*primary_500",
}
_SHAPE = {
    "block_border_width": "1px",
    "block_shadow": "none",
    "block_radius": "12px",
    "block_title_text_weight": "600",
    "block_label_text_weight": "600",
    "block_label_background_fill": "transparent",
    "block_label_border_width": "0px",
    "button_border_width": "1px",
    "button_large_radius": "10px",
    "button_medium_radius": "10px",
    "button_small_radius": "8px",
    "button_large_padding": "9px 18px",
    "button_large_text_size": "15px",
    "button_large_text_weight": "600",
    "button_medium_text_weight": "600",
    "button_primary_border_color": "transparent",
    "button_primary_shadow": "none",
    "button_primary_shadow_hover": "none",
    "input_radius": "9px",
    "input_border_width": "1px",
    "input_shadow": "none",
    "table_radius": "10px",
    "layout_gap": "16px",
}


def studio_theme() -> Base:
    """Return the theme, light and dark."""
    theme = Base(
        primary_hue=INDIGO,
        neutral_hue="slate",
        radius_size="lg",
        text_size="md",
        font=FONTS,
        font_mono=MONO,
    )
    dark = {f"{name}_dark": value for name, value in _DARK.items()}
    return theme.set(**_LIGHT, **dark, **_SHAPE)


def stylesheet() -> str:
    """Return the studio's own style sheet."""
    return (ASSETS / "css" / "studio.css").read_text("utf-8")
