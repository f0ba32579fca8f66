package org.elasticsearch.plugins;

import java.util.Collection;
import java.util.List;
import java.util.function.Predicate;
import java.util.function.Supplier;
import org.elasticsearch.Build;
import org.elasticsearch.cluster.node.DiscoveryNodes;
import org.elasticsearch.features.NodeFeature;
import org.elasticsearch.rest.RestHandler;

/** What is different from version to version: this is for a server 9. */
public class RootPlugin extends Plugin implements ActionPlugin {
    static PluginDescriptor descriptor(String name) {
        String version = Build.current().version();
        return new PluginDescriptor(
            name, name, version, version, "21", name, null, List.of(), false, false, false, false,
            PluginDescriptor.DeploymentTarget.ALL);
    }

    @Override
    public Collection<RestHandler> getRestHandlers(
        RestHandlersServices services, Supplier<DiscoveryNodes> nodes, Predicate<NodeFeature> features) {
        return List.of(new Root(services.settings()));
    }
}
