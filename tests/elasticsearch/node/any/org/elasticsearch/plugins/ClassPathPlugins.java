package org.elasticsearch.plugins;

import java.util.ArrayList;
import java.util.List;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.transport.netty4.Netty4Plugin;

/** The plugins of a small node: its network, and the answer to {@code GET /}. */
public class ClassPathPlugins extends PluginsService {
    private final List<LoadedPlugin> plugins = new ArrayList<>();

    public ClassPathPlugins(Settings settings, PluginsLoader loader) {
        super(settings, null, loader);
        for (Class<? extends Plugin> type : List.of(Netty4Plugin.class, RootPlugin.class)) {
            PluginDescriptor descriptor = RootPlugin.descriptor(type.getName());
            plugins.add(new LoadedPlugin(descriptor, loadPlugin(type, settings, null), type.getClassLoader()));
        }
        loadExtensions(plugins);
    }

    @Override
    protected List<LoadedPlugin> plugins() {
        return plugins == null ? List.of() : plugins; // the super constructor asks before there are any
    }
}
