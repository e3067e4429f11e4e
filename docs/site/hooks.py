"""What mkdocs calls while it builds the site: adds the pages that are not in docs/."""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site.charts import CHARTS, PAGE, illustrated, picture
from docs.site.links import HOMES, pictures, relinked
from docs.site.pages import ROOT, api_navigation, example_navigation, pages, read

log = get_plugin_logger("site")
NAVIGATION = {"api/": api_navigation, "examples/": example_navigation}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that are folders of generated pages."""
    config.nav = [filled(item) for item in config.nav or []]
    return config


def filled(item: Any) -> Any:
    """An item of the navigation, or that folder's items in the place of its name."""
    ((title, target),) = item.items()
    generated = isinstance(target, str) and target in NAVIGATION
    return {title: NAVIGATION[target]()} if generated else item


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages: those of the repository that are elsewhere, and those that are generated."""
    for path, home in HOMES.items():
        source = ROOT / path
        if source.is_file():
            text = source.read_text()
            if path == PAGE:
                text = illustrated(text)
            files.append(File.generated(config, home, content=relinked(text, path, home)))
            for shown in pictures(source.read_text(), path):
                files.append(File.generated(config, shown, abs_src_path=str(ROOT / shown)))
    for chart in CHARTS:
        files.append(File.generated(config, chart.path, content=picture(chart, read(PAGE))))
    for home, text in pages().items():
        files.append(File.generated(config, home, content=text))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Say how much there is."""
    count = len(list(Path(config.site_dir).rglob("*.html")))
    log.info(f"{count} pages in {config.site_dir}")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mend the links of what is written in docs/."""
    if page.file.generated_by is not None:
        return markdown
    path = Path(page.file.abs_src_path or "").relative_to(ROOT)
    return relinked(markdown, path.as_posix(), page.file.src_uri)
