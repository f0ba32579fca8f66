package org.elasticsearch.node;

import java.util.Collections;
import java.util.Map;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.http.HttpServerTransport;
import org.elasticsearch.plugins.ClassPathPlugins;
import org.elasticsearch.plugins.PluginsLoader;
import org.elasticsearch.plugins.PluginsService;

/** An Elasticsearch server whose plugins come from the class path: {@code SmallNode KEY=VALUE ...}. */
public class SmallNode extends Node {
    private SmallNode(Environment environment) {
        super(NodeConstruction.prepareConstruction(environment, none(), new Provider(), true));
    }

    private static PluginsLoader none() {
        return PluginsLoader.createPluginsLoader(
            Collections.emptySet(), Collections.emptySet(), Collections.emptyMap(), false);
    }

    private static final class Provider extends NodeServiceProvider {
        @Override
        PluginsService newPluginService(Environment environment, PluginsLoader loader) {
            return new ClassPathPlugins(environment.settings(), loader);
        }
    }

    public static void main(String[] arguments) throws Exception {
        LogConfigurator.configureESLogging(); // before the first logger is asked for
        Settings.Builder settings = Settings.builder();
        for (String argument : arguments) {
            int at = argument.indexOf('=');
            settings.put(argument.substring(0, at), argument.substring(at + 1));
        }
        SmallNode node = new SmallNode(new Environment(settings.build(), null));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        node.start();
        int port = node.injector().getInstance(HttpServerTransport.class).boundAddress().publishAddress().getPort();
        System.out.println("http.port " + port);
        System.out.flush();
        System.in.read(); // until whoever started it is gone
        System.exit(0);
    }
}
